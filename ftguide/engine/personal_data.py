"""Personal data in a text, found by libraries: check digits where there are some, numbering plans for phones

python-stdnum and phonenumbers come with `ftguide[check]`, so they are imported where they are needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

E_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,4}[a-z]{2,24}\b", re.I)
DIGITS = re.compile(r"(?<![\w.,+(-])[+(]?\d[\d ().-]{6,22}\d(?![\w]|[.,-]\d)")
CPF = re.compile(r"\d{3}\.\d{3}\.\d{3}-\d\d|\d{11}")
CNPJ = re.compile(
    r"(?<![\w.,/-])[A-Z\d]{2}\.[A-Z\d]{3}\.[A-Z\d]{3}/[A-Z\d]{4}-\d\d(?!\w)"
    r"|(?<![\w.,/-])\d{8}00\d{4}(?!\w)"  # bare digits of one of the first hundred branches, no date and time
    r"|(?<=CNPJ )[A-Z\d]{12}\d\d(?!\w)|(?<=CNPJ: )[A-Z\d]{12}\d\d(?!\w)"
)
IBAN = re.compile(r"(?<![\w.,/-])[A-Z]{2}\d\d(?: ?[A-Z\d]{4}){2,7}(?: ?[A-Z\d]{1,4})?(?!\w)")
CARD = re.compile(r"3[47]\d{13}|4\d{12}(?:\d{3})?|5[1-5]\d{14}|2[2-7]\d{14}|6(?:011|5\d\d)\d{12}")
DATE = re.compile(r"\d{4}-\d\d-\d\d")
# Not looked for: names, postal addresses, dates of birth, identity cards, accounts without an IBAN.

# what stands before bare digits that are a phone number, and before those that are not
CALLED = re.compile(
    r"\b(?:tel|telefone|fone|cel|celular|whats|whatsapp|zap|contato|ligue|phone|mobile|call)\b\W{0,4}$|"
    r"\b(?:telefone|celular|whatsapp|phone|mobile)\b[^\d\n]{0,12}$",
    re.I,
)
NUMBERED = re.compile(
    r"(?:#|n[.º°o]|\b(?:pedido|order|protocolo|id|c[óo]d(?:igo)?|code|isbn|ean|sku|nf|nota|invoice|fatura|ref|serial|"
    r"s[ée]rie|processo|conta|account|ticket|number|n[úu]mero))\W{0,4}$",
    re.I,
)
NUMBER = re.compile(r"\d[\dA-Z ().,/-]{6}")  # in any of these
MOST = 100  # numbers of a text that are looked at


def personal_data(
    text: str,
    regions: tuple[str, ...] = ("BR", "US"),  # whose phone numbers are known without a country code
) -> list[tuple[str, str]]:  # (what, the characters)
    """E-mail addresses, phone numbers of a numbering plan; CPF, CNPJ, IBAN and cards with right check digits.

    Bare digits are a phone number where BR is among the regions and they are one of a Brazilian mobile phone,
    or of any phone behind a word such as telefone."""
    found = [("e-mail", match[0]) for match in E_MAIL.finditer(text)] if "@" in text else []
    if not NUMBER.search(text):
        return found
    accounts = [*_valid(text, CNPJ, "CNPJ"), *_valid(text, IBAN, "IBAN")]
    numbers = list(accounts)
    for n, match in enumerate(DIGITS.finditer(text)):
        if n == MOST:
            break
        written = match[0].strip()
        if any(start <= match.start() < start + len(account) for start, _, account in accounts):
            continue
        what = _kind_of_number(written, text[max(match.start() - 24, 0) : match.start()], regions)
        if what:
            numbers.append((match.start(), what, written))
    return found + [(what, written) for _, what, written in sorted(numbers)]


def without_personal_data(
    text: str,
    within: int | None = None,  # so many characters are looked at
) -> str:
    "The text with dots for what `personal_data` finds."
    for _, found in personal_data(text[:within]):
        text = text.replace(found, "•" * 6)
    return text


def _valid(text: str, pattern: re.Pattern, what: str) -> list[tuple[int, str, str]]:
    "Where an account of a company or at a bank stands whose check digits are right."
    written = [(match.start(), what, match[0]) for match in pattern.finditer(text)]
    if not written:
        return []
    from stdnum import iban
    from stdnum.br import cnpj

    is_valid = cnpj.is_valid if what == "CNPJ" else iban.is_valid
    return [
        (start, what, known)
        for start, what, said in written[:MOST]
        if (known := next(filter(is_valid, _without_last_words(said)), ""))
    ]


def _without_last_words(written: str) -> Iterator[str]:
    "A number in groups, and then without the last of them: a word in capitals may follow it."
    yield written
    while " " in written:
        written = written.rpartition(" ")[0]
        yield written


def _kind_of_number(written: str, before: str, regions: tuple[str, ...]) -> str | None:
    from stdnum import luhn
    from stdnum.br import cpf

    digits = re.sub(r"\D", "", written)
    if CPF.fullmatch(written) and cpf.is_valid(digits):
        return "CPF"
    if CARD.fullmatch(digits) and luhn.is_valid(digits):
        return "card number"
    if digits == written:
        is_phone = "BR" in regions and _is_bare_phone_number(digits, before)
    elif not 8 <= len(digits) <= 15 or DATE.match(written):
        return None  # too short, too long, or a date
    else:
        is_phone = any(_is_phone_number(written, region) for region in regions)
    return "phone number" if is_phone else None


def _is_bare_phone_number(digits: str, before: str) -> bool:
    "Brazilian: the two digits of an area and nine of a mobile phone, with 55 before them or without."
    national = digits[2:] if len(digits) in (12, 13) and digits.startswith("55") else digits
    if len(national) not in (10, 11) or NUMBERED.search(before):
        return False
    mobile = len(national) == 11 and national[2] == "9"
    return (mobile or bool(CALLED.search(before))) and _is_phone_number(national, "BR")


def _is_phone_number(written: str, region: str) -> bool:
    import phonenumbers

    digits = re.sub(r"\D", "", written)
    try:
        number = phonenumbers.parse(written, region)
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_valid_number(number) and (written[0] == "+" or len(digits) >= 10)
