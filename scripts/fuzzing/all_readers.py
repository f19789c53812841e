"""Every reader that is fuzzed."""

from scripts.fuzzing.models import MODELS
from scripts.fuzzing.reader import Reader
from scripts.fuzzing.runs import EVIDENCE, REPORTS
from scripts.fuzzing.saes import SAES
from scripts.fuzzing.states import CHECKPOINTS, KEPT
from scripts.fuzzing.studies import PACKETS, STUDIES
from scripts.fuzzing.texts import CORPORA, EXPERIMENTS, NAMED

READERS: tuple[Reader, ...] = (
    *(SAES, CORPORA, EXPERIMENTS, NAMED, REPORTS, EVIDENCE),
    *(PACKETS, STUDIES, CHECKPOINTS, KEPT, MODELS),
)
