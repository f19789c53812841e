"""Hooks of mkdocs: which page stands where, and the pages that stand outside docs/.

    docs/**/*.md + README, CONTRIBUTING, CHANGELOG, SECURITY, examples/README --> files --> navigation by section

A page that no section names stands under Explanation, so a new page needs no line here.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {
    "examples/README.md": "howto/examples.md",
    "README.md": "overview.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"Pages outside docs/ -> where they stand in the site; one that does not exist is left out."

SECTIONS: dict[str, tuple[str, ...]] = {
    "Tutorial": ("tutorial.md",),
    "How-to": ("howto/", "explorer.md", "study.md", "activations.md", "distribution.md", "crash-safety.md"),
    "Explanation": ("overview.md", "architecture.md", "methods/", "architectures.md", "features.md", "decisions/"),
    "Reference": ("reference/", "metrics.md", "formats.md", "scale.md", "performance.md", "glossary.md"),
    "Project": ("stability.md", "security.md", "contributing.md", "changelog.md", "state.md"),
}
"Section -> its pages and folders, in order."


def on_files(files: Files, config: Any) -> Files:
    """The files of docs/ and the pages from outside it; the navigation is set by the way."""
    for source, target in OUTSIDE.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, target, content=_moved((ROOT / source).read_text(), source, target)))
    pages = sorted(file.src_uri for file in files.documentation_pages() if file.src_uri != "index.md")
    config["nav"] = [{"Home": "index.md"}, *navigation(pages)]
    return files


def navigation(pages: list[str]) -> list[dict[str, Any]]:
    """Sections with their pages; a folder within a section is a group of its own."""
    left = dict.fromkeys(pages)
    sections: dict[str, list[Any]] = {}
    for section, places in SECTIONS.items():
        entries: list[Any] = []
        for place in places:
            found = [page for page in left if page == place or (place.endswith("/") and page.startswith(place))]
            left = {page: None for page in left if page not in found}
            named_like_section = place.rstrip("/") in ("howto", "reference")
            entries += found if not place.endswith("/") or named_like_section else _group(place, found)
        sections[section] = entries
    sections["Explanation"] += list(left)
    return [{section: entries} for section, entries in sections.items() if entries]


def _group(place: str, pages: list[str]) -> list[Any]:
    return [{place.rstrip("/").capitalize(): pages}] if pages else []


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of a page of docs/ that lead out of it, to where the site has them."""
    source = page.file.src_uri
    return markdown if source in OUTSIDE.values() else _moved(markdown, f"docs/{source}", source)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """The page as it is; one that fetches anything from elsewhere stops the build."""
    fetched = re.findall(r"""<(?:script|img|link)\b[^>]*\b(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""", output)
    if fetched:
        raise PluginError(f"{page.file.src_uri} fetches {fetched}; the site works without a network: ship it in docs/")
    return output


def _moved(text: str, source: str, target: str) -> str:
    """`text` with its links, which are right at `source` in the repository, right at `target` in the site."""

    def link(match: re.Match[str]) -> str:
        words, place = match.groups()
        path, mark, anchor = place.partition("#")
        if re.match(r"[a-z]+:", place) or not path:
            return match.group()
        whole = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        inside = OUTSIDE.get(whole, whole.removeprefix("docs/") if whole.startswith("docs/") else None)
        if inside is None or (ROOT / whole).is_dir():
            return words
        return f"[{words}]({posixpath.relpath(inside, posixpath.dirname(target) or '.')}{mark}{anchor})"

    return re.sub(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)", link, text)
