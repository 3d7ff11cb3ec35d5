"""Which language a text is in, where that is plain: by its script, or by the small words of every text"""

from __future__ import annotations

import re
import unicodedata

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
OTHER_LETTERS = re.compile(
    r"[\u0370-\u1fff\u2c00-\ud7ff\uf900-\uffdc\U00010000-\U0001efff\U00020000-\U0003ffff]"
)


def language(
    text: str,  # normalised
) -> str:  # empty where it is not plain
    "English, Portuguese, ..., or the name of a script other than Latin."
    begins = text[:LOOKED_AT]
    if not begins.isascii() and OTHER_LETTERS.search(begins) and (script := _other_script(begins)):
        return script
    counted = dict.fromkeys(SMALL_WORDS, 0)
    for word in begins.split():
        for name in _LANGUAGES.get(word, ()):
            counted[name] += 1
    next_most, most = sorted(counted.values())[-2:]
    if most < 4 or most < 1.6 * next_most:
        return ""
    return max(counted, key=counted.get)


def _other_script(text: str) -> str:
    "The script of most letters, where it is not Latin."
    letters = [character for character in text if character.isalpha()]
    others = [character for character in letters if OTHER_LETTERS.match(character)]
    if len(others) * 2 <= len(letters):
        return ""
    return unicodedata.name(others[0], "?").split()[0].title()
