"""From a reference to a frozen language model.

reference --(files)--> tokenizer, weights, dtype, device --> LM
"""

from fovea.lm import files
from fovea.lm.files import DtypeName
from fovea.lm.model import LM


def load_lm(reference: str, *, dtype: DtypeName = "auto", device: str = "cpu", compiled: bool = False) -> LM:
    """The language model called `reference`, frozen and in evaluation mode.

    Args:
        reference: "bundled:smollm2-135m-instruct", a folder, or a Hub id. Code and pickles from there are never run.
        dtype: Compute dtype. "auto" is bfloat16 on CUDA and on CPUs with avx512_bf16 or amx_bf16, because it is about
            twice as fast there; else float32, because other CPUs emulate bfloat16 slowly.
        compiled: Run layers as compiled code, made on first use; needs a C++ compiler on a CPU.

    Raises:
        UnknownReferenceError: nothing is found under that name.
        ModelError: the model is not supported or its weights are not safetensors, incomplete or damaged.
        ConfigError: dtype or device is not allowed or not there, or there is no compiler.
    """
    place = files.choose_device(device)
    compute = files.choose_dtype(dtype, place)
    source = files.locate(reference)
    tokenizer = files.load_tokenizer(source, reference)
    model = files.load_model(source, reference, dtype=compute, device=place)
    return LM(model, tokenizer, name=reference, folder=source.folder, compiled=compiled)
