"""What can be wrong with words: gaps nobody filled, answers cut off, text that was read in a wrong encoding

Each function looks at one text and is right about most; how often it is wrong is counted in its tests.
"""

from __future__ import annotations

import re
from functools import partial

import regex  # knows the properties of Unicode's characters

from ftguide.engine.texts import INVISIBLE

# ---- placeholders

SIGNS = ("[", "{", "<", "%", "TODO", "TBD", "FIXME", "XXX", "x/x", "X/X", "orem", "OREM")  # of any gap
CODE = re.compile(r"```.*?(?:```|\Z)|``.+?``|`[^`\n]+`", re.S)
CODE_LINE = re.compile(
    r"""
    [)\]}"'];\s*$ | [{\\]\s*$ | ^\s*\} | ^(?:\ {4}|\t)                         # ends of statements, blocks
    | [=!<>+*/:-]=|=>|->|::|&&|\|\| | \)\( | </\w | \w=["'] | \\[a-z]+\{ | "\s*:\s*["\[{\d]
    | ^\s*[\w.]+\ ?=\ ?\S | \w\([^()]*[\w"'.]\) \s* (?:$|[.,;:]\s*$) | ;\s*(?:do|then|done|fi)\b
    | ^\s*(?:def|class|import|return|print|echo|const|let|var|function|public|private|static|using)\b
    | ^\s*(?:package|elif|else|try|except|git|sudo|apt|apt-get|pip|npm|curl|wget|cd|docker|make|export)\b
    | ^\s*(?:SELECT\b|INSERT\b|from\ [\w.]+\ import|\#include|\#!|//|/\*|\$\ |>>>|<[?!])
    | ^\s*(?:if|for|while|with)\b.*:\s*$ | (?i:^\s*usage\b) | \ --?\w[\w-]*(?:[=\ ]|\]|$)
    """,
    re.X,
)
ORDER = (
    "insert|enter|add|put|fill in|type|paste|write|your|insira|inserir|coloque|digite|preencha|escreva|cole|"
    "seu|sua|seus|suas|meu|minha|my"
)
_WORDS = """
name names surname company business organisation organization brand client customer recipient sender
date day month year time place location city state country address street phone telephone email website
url link price amount number product item service colour color size title position job role department
topic subject theme text article paragraph sentence document content message description question answer
language reason context keyword keywords placeholder here words input output prompt instruction username
password nome nomes sobrenome empresa marca cliente destinatário remetente data dia mês ano hora local
cidade estado país endereço rua cep telefone celular e-mail site preço valor número produto serviço
modelo cor tamanho título cargo departamento assunto tema texto artigo parágrafo frase documento
conteúdo mensagem descrição pergunta resposta idioma motivo contexto aqui palavras entrada saída usuário
senha
"""
SLOT = set(_WORDS.split())  # what stands in a gap to be filled
SQUARE = re.compile(r"(?<![\w\]\\!])\[([^\W\d][\w '’.…/-]{1,60}|TODO\b[^\[\]\n]{0,60})\](?![(\[:\w])")
ANGLE = re.compile(r"(?<![\w<])<([^\W\d][^<>\n/=\"@]{1,60})>(?!\w)")
CURLY = re.compile(r"(?<![\w\\$^_}{#%@/.\]-])\{([^\W\d]\w+(?:[. -]\w+){0,3})\}(?![\w({\[=/-])")
DOUBLE_CURLY = re.compile(r"\{\{\s*[^\W\d][\w.]*(?:\s*\|\s*[\w.:'\" ]+)?\s*\}\}")
DOLLAR = re.compile(r"\$\{[^\W\d][\w.]*\}")
PERCENT = re.compile(r"(?<![\w%\d])(?<!\d )%(?:\([\w ]{1,30}\))?[sd](?![\w%])")
FORMATS = re.compile(r"%[YmHMBjyAS]\b|printf|strftime|[Ff]ormat string|string de formato")
TO_DO = re.compile(r"(?<!# )(?<![\w.\"'/-])(?:TODO|TBD|FIXME)(?=\s*[:\])>])|^\W*(?:TODO|TBD|FIXME)\W*$", re.M)
CROSSES = re.compile(r"(?<![\w/.+-])(X{3,})(?![\w/.+-]*\w)|\b[Xx]{2}/[Xx]{2}/[Xx]{2,4}\b")
NUMERAL = re.compile(
    r"(?:século|séc\.|capítulo|cap\.|volume|vol\.|chapter|part|parte|book|livro|section|art\.|anexo)\s$", re.I
)
LOREM = re.compile(r"\blorem ipsum\b(?=\W*(?:dolor\b|$))", re.I | re.M)


def placeholder(
    text: str,
) -> str:  # empty where there is none
    "The first gap that nobody filled: {name}, [NAME], <NAME>, %s, ${x}, {{ a.b }}, TODO, XXX, lorem ipsum."
    if not any(sign in text for sign in SIGNS):
        return ""
    text = _prose(text)
    looks = (
        partial(_first, DOUBLE_CURLY),
        partial(_first, DOLLAR),
        partial(_first, CURLY),
        _square,
        _angle,
        _percent,
        partial(_first, TO_DO),
        _crosses,
        partial(_first, LOREM),
    )
    return next(filter(None, (look(text) for look in looks)), "")


def _prose(text: str) -> str:
    "Without what is marked as code, and without lines that look like it."
    lines = CODE.sub(" ", text).splitlines()
    return "\n".join(line for line in lines if not CODE_LINE.search(line))


def _first(pattern: re.Pattern, text: str) -> str:
    found = pattern.search(text)
    return found[0] if found else ""


def _square(text: str) -> str:
    "[Your name], [NAME], [insert text here], [text of 200 words]; no link, no aside, no [...]."
    return next((found[0] for found in SQUARE.finditer(text) if _is_slot(found[1])), "")


def _angle(text: str) -> str:
    "<NAME>, <your name>; no tag of HTML or XML, which is closed somewhere, and no option of a command."
    for found in ANGLE.finditer(text):
        inside = found[1]
        tag = inside.split()[0]
        if f"</{tag}" in text:
            continue
        asks = re.match(rf"(?:{ORDER}) \w", inside, re.I)
        if asks or (inside.isupper() and _is_slot(inside)) or inside.lower() in ("text", "texto"):
            return found[0]
    return ""


def _is_slot(inside: str) -> bool:
    "Does it name what is to be written there, or ask for it?"
    if re.match(rf"(?:{ORDER})\s+\w|TODO\b", inside, re.I):
        return True
    words = re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", inside.lower())
    return len(words) <= 7 and not SLOT.isdisjoint(words) and _reads_as_gap(inside, words)


def _reads_as_gap(inside: str, words: list[str]) -> bool:
    "A name in capitals, one or two words, or a text with its length; not a whole remark."
    if inside.isupper() or len(words) <= 2:
        return True
    return words[0] in SLOT or inside.rstrip().endswith(("...", "…")) or bool(re.search(r"\d", inside))


def _percent(text: str) -> str:
    return "" if FORMATS.search(text) else _first(PERCENT, text)


def _crosses(text: str) -> str:
    "XXX, which is a numeral behind a word such as chapter."
    for found in CROSSES.finditer(text):
        if not (found[1] == "XXX" and NUMERAL.search(text[: found.start()])):
            return found[0]
    return ""


# ---- answers that stop in the middle

ELLIPSIS = re.compile(r"(?:\.{3}|…|⋯)$")
# What ends a sentence in any script: terminal punctuation, closing quotes and brackets, emoji; and letters of
# scripts that put nothing there.
ENDING = regex.compile(
    r"[\p{Sentence_Terminal}\p{Terminal_Punctuation}\p{Pe}\p{Pf}\p{Pi}\p{So}\p{Sk}…⋯\"'`|>"
    r"\p{Thai}\p{Lao}\p{Tibetan}--[,،、，︐﹐﹑､߸᠂᠈꓾꘍꛵⹁⹌፣]]",
    regex.V1,
)
EMPHASIS = "*_~ "  # behind the last sign, as Markdown writes it
LAST = 40  # characters that are looked at


def ends_with_ellipsis(text: str) -> bool:
    return bool(ELLIPSIS.search(text.rstrip()))


def ends_like_a_sentence(
    text: str,
) -> bool:
    "Does it end with a full stop of any script, a closing quote or bracket, or an emoji?"
    end = INVISIBLE.sub("", text[-LAST:]).rstrip(EMPHASIS)[-1:]
    return bool(end and ENDING.match(end))


# ---- the wrong encoding

_BYTES = bytes(range(0x80, 0xC0))
_NEXT = "".join(dict.fromkeys(_BYTES.decode("latin-1") + _BYTES.decode("cp1252", "ignore")))  # of a character
_LETTER_NEXT = "".join(c for c in _NEXT if c not in "\x85\x91\x92\x93\x94\x95\x96\x97…‘’“”•–—»\xbb")
MOJIBAKE = re.compile(
    "|".join(
        (
            f"[ÂÃ][{re.escape(_LETTER_NEXT)}]",  # é as Ã©; Ã” may be the end of a shouted word in quotes
            rf"[ÃÅ][{re.escape(_NEXT)}](?=[a-zà-ÿ])",
            f"â[\x80-\x84\x86-\x8f€‚ƒ„†‡ˆ‰Š‹Œ][{re.escape(_NEXT)}]",  # ’ as â€™
            f"ðŸ[{re.escape(_NEXT)}]|ï¿½|ï»¿",  # emoji, U+FFFD, a byte-order mark
            f"(?:[ÐÑØÙ×][{re.escape(_NEXT)}]){{2}}",  # Cyrillic, Arabic, Hebrew
            f"(?:[à-í][{re.escape(_NEXT)}][{re.escape(_NEXT)}]){{2}}",  # other scripts
            "(?<![\"“'])\ufffd|[\x80-\x84\x86-\x9f]",  # lost characters; cp1252 read as Latin-1
        )
    )
)


SECOND = re.compile(f"[{re.escape(_NEXT)}\ufffd]")  # one of these is in each


def mojibake(
    text: str,
) -> str:  # empty where there is none
    "The first piece of UTF-8 that was read as another encoding, such as Ã© for é, or that was lost (U+FFFD)."
    if text.isascii() or not SECOND.search(text):
        return ""
    return _first(MOJIBAKE, text)
