"""What a run left out and why: documents, tails of tokens, special and massive tokens."""

from collections.abc import Mapping
from typing import Any

from fovea.atomic import read_checked_json
from fovea.data.activations import ANEW
from fovea.data.tokens import TokenisedCorpus
from fovea.experiment.folder import RunFolder


def count_excluded(run: RunFolder, corpora: Mapping[str, TokenisedCorpus]) -> dict[str, Any]:
    """Counts by corpus, and the token filter in words."""
    measured = read_checked_json(run.calibration / "filter.json", ANEW.again, within=run.path)
    keep = measured["filter"]
    found: dict[str, Any] = {
        "token filter": {
            "positions dropped at the start of each context": keep["skip_first"],
            "special tokens dropped": len(keep["special_ids"]),
            "norm above which a token is dropped": keep["max_norm"],
            "median norm": measured.get("median_norm"),
        }
    }
    for name, corpus in corpora.items():
        manifest = corpus.manifest
        counts: dict[str, Any] = {
            "documents read": manifest["n_documents_read"],
            "exact duplicates dropped": manifest["n_duplicates"],
            "empty documents dropped": manifest["n_empty"],
        }
        for split, values in manifest["splits"].items():
            counts |= {
                f"{split}: {key.removeprefix('n_').replace('_', ' ')}": n
                for key, n in values.items()
                if key[:2] == "n_"
            }
        found[name] = counts
    return found
