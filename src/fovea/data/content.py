"""What a tokenised corpus was made of, a file and its hash a line, to say which file has changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fovea.foreign import DAMAGED, is_there, read_text

_NAME, _SHOWN = "content.txt", 4


def write_content(folder: Path, lines: list[str]) -> None:
    """Note the lines, each a name and a hash, in a folder that is being made."""
    (folder / _NAME).write_text("\n".join(lines) + "\n")


def changes(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], *, content: list[str]) -> list[str]:
    """Which settings differ, from what to what, and which files."""
    names = [name for name in new if old.get(name) != new[name] and name not in ("reference", "content")]
    changed = [f"{name}: {old.get(name)!r} -> {new[name]!r}" for name in names]
    return changed if old.get("content") == new["content"] else changed + _changed_content(folder, content)


def _changed_content(folder: Path, lines: list[str]) -> list[str]:
    """Which of `lines` differ from those noted, from what to what."""
    if not is_there(folder / _NAME, folder, DAMAGED):
        return ["content of its files"]
    noted = read_text(folder / _NAME, folder, DAMAGED).splitlines()
    old, new = (dict(line.rsplit(" ", 1) for line in each if " " in line) for each in (noted, lines))
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    words = [
        f"content of {name}: {old.get(name, 'absent')[:12]} -> {new.get(name, 'absent')[:12]}"
        for name in changed[:_SHOWN]
    ]
    return words + [f"content of {len(changed) - _SHOWN} more"] * (len(changed) > _SHOWN)
