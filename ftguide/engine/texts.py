"""One normal form of texts: two that look alike to a reader are compared as equal, whoever compares them"""

from __future__ import annotations

import re
import unicodedata

# What has no picture: controls, marks of direction, joiners, soft hyphens, byte-order marks, variation
# selectors, tags, fillers, and the empty Braille cell. White space is not among them.
_INVISIBLE = (
    r"\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    r"\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
INVISIBLE = re.compile(f"[{_INVISIBLE}]+")
VISIBLE = re.compile(rf"[^\s{_INVISIBLE}]")
# Characters that are seen, stand for themselves and stay composed in any case: most of western texts.
USUAL = re.compile(r"[\t\n\r\x20-\x7e\xa0-\xac\xae-\u012f\u2010-\u2027\u2030-\u205e\u20a0-\u20bf]*")


def normalised_text(
    text: str,
) -> str:
    "A text without differences that nobody sees: composition (Unicode NFC), case, white space, invisibles."
    if USUAL.fullmatch(text):
        return " ".join(text.casefold().split())
    # case is folded on the parts of a character, as Unicode's caseless match has it
    text = unicodedata.normalize("NFD", INVISIBLE.sub("", text)).casefold()
    return " ".join(unicodedata.normalize("NFC", text).split())


def same_text(a: str, b: str) -> bool:
    "Would a reader take two texts for the same, whatever their case and spacing?"
    return a == b or normalised_text(a) == normalised_text(b)


def is_blank(
    text: str,
) -> bool:
    "Is there nothing to see?"
    return VISIBLE.search(text) is None
