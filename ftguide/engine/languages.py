"""Which language a text is in, where that is plain: by its script, or by the small words of every text"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

SMALL_WORDS = {
    "English": "the of and to in is that for it with as are this was be by on not or from you your an",
    "Portuguese": "de do da dos das que e é um uma em no na nos nas para com não os as ao por mais você são",
    "Spanish": "de del el la los las que y es un una en para con no por más usted su lo se al son está",
    "French": "de du des le la les et est un une en pour que qui dans avec pas vous il elle sur au ce",
    "German": "der die das und ist ein eine in zu den mit von für auf nicht sie es dem des im sich auch",
    "Italian": "di del della il la lo gli le e è un una in per che con non si da al sono più come nel",
}
_LANGUAGES = {}  # word -> languages that have it
for _language, _words in SMALL_WORDS.items():
    for _word in _words.split():
        _LANGUAGES.setdefault(_word, []).append(_language)
LOOKED_AT = 400  # characters of a text
WORD = re.compile(r"[^\W\d_]+")


def language(
    text: str,  # normalised
) -> str:  # empty where it is not plain
    "English, Portuguese, ..., or the name of a script other than Latin."
    begins = text[:LOOKED_AT]
    if not begins.isascii() and (script := _other_script(begins)):
        return script
    counted = Counter()
    for word in WORD.findall(begins):
        counted.update(_LANGUAGES.get(word, ()))
    (first, most), (_, next_most) = [*counted.most_common(2), ("", 0), ("", 0)][:2]
    return first if most >= 4 and most >= 1.6 * next_most else ""


def _other_script(text: str) -> str:
    "The script of most letters, where it is not Latin."
    letters = [character for character in text if character.isalpha()]
    others = [character for character in letters if character > "\u024f"]
    if len(others) * 2 <= len(letters):
        return ""
    return unicodedata.name(others[0], "?").split()[0].title()
