"""Text with nothing hidden in it: what would steer the display is written out."""

import re

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\U000e0000-\U000e007f]"
)
"Controls (not tab and newline), bidi marks and isolates, invisible separators, tags, lone surrogates, non-characters."


def visible(text: str) -> str:
    """`text` with control and bidi characters as signs: NUL as its picture, others by code point, as in <U+202E>.

    Joiners stay: emoji and several scripts are spelt with them, and they move nothing.
    """
    return _HIDDEN.sub(_sign, text)


def _sign(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else f"<U+{code:04X}>"
