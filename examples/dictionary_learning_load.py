"""dictionary_learning loads what fovea writes and computes the same.

    python examples/dictionary_learning_load.py RUN JOB

Shows load_dictionary of an exported job (of g and the job as one SAE, if it adds to g).
Tested with dictionary-learning 0.1.0.
"""

from dictionary_learning.utils import load_dictionary

from handover import Coded, arguments, compare

job, out = arguments(__doc__)
folder = job.export(out / "sae", layout="dictionary_learning")
sae, config = load_dictionary(str(folder), device="cpu")
print(f"loaded as {config['trainer']['dict_class']}")
lm = job.lm()
x = job.activations(lm, job.tokens(16)).flatten(0, 1)
compare("dictionary_learning", Coded(sae.encode(x), sae(x)), job.code(x))
