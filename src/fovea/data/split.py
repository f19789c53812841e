"""Which documents are held out: a function of the document and a salt, of nothing else.

    document id --(SHA-256 with salt)--> number in [0, 1) --(< heldout_fraction)--> "heldout" | "train"

So a document keeps its split when files are added, removed or reordered, and two corpora that share a document agree.
"""

import hashlib
from typing import Literal

from fovea.errors import ConfigError

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")


def split_of(document_id: str, *, heldout_fraction: float, salt: str = "") -> Split:
    """The split of a document; about `heldout_fraction` of all ids are held out. Another salt gives another split.

    Raises:
        ConfigError: heldout_fraction is not in [0, 1].
    """
    if not 0 <= heldout_fraction <= 1:
        raise ConfigError(f"heldout_fraction = {heldout_fraction}, but it must lie between 0 and 1; 0.1 is usual")
    digest = hashlib.sha256(f"{salt}\0{document_id}".encode()).digest()
    return "heldout" if int.from_bytes(digest[:8]) < heldout_fraction * 2**64 else "train"
