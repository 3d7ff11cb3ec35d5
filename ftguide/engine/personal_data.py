"""Personal data in a text, found by libraries: checksums where there are some, numbering plans for phones

python-stdnum and phonenumbers come with `ftguide[check]`, so they are imported where they are needed.
"""

from __future__ import annotations

import re

E_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,4}[a-z]{2,24}\b", re.I)
DIGITS = re.compile(r"(?<![\w.,+(-])[+(]?\d[\d ().-]{6,22}\d(?![\w]|[.,-]\d)")
CPF = re.compile(r"\d{3}\.\d{3}\.\d{3}-\d\d|\d{11}")
CARD = re.compile(r"3[47]\d{13}|4\d{12}(?:\d{3})?|5[1-5]\d{14}|2[2-7]\d{14}|6(?:011|5\d\d)\d{12}")
DATE = re.compile(r"\d{4}-\d\d-\d\d")


def personal_data(
    text: str,
    regions: tuple[str, ...] = ("BR", "US"),  # whose phone numbers are known without a country code
) -> list[tuple[str, str]]:  # (what, the characters)
    "E-mail addresses, CPF and card numbers with a right checksum, phone numbers that a numbering plan knows."
    found = [("e-mail", match[0]) for match in E_MAIL.finditer(text)] if "@" in text else []
    for n, match in enumerate(DIGITS.finditer(text)):
        if n == 100:
            break
        written = match[0].strip()
        what = _kind_of_number(written, regions)
        if what:
            found.append((what, written))
    return found


def without_personal_data(
    text: str,
    within: int | None = None,  # so many characters are looked at
) -> str:
    "The text with dots for what `personal_data` finds."
    for _, found in personal_data(text[:within]):
        text = text.replace(found, "•" * 6)
    return text


def _kind_of_number(written: str, regions: tuple[str, ...]) -> str | None:
    from stdnum import luhn
    from stdnum.br import cpf

    digits = re.sub(r"\D", "", written)
    if CPF.fullmatch(written) and cpf.is_valid(digits):
        return "CPF"
    if CARD.fullmatch(digits) and luhn.is_valid(digits):
        return "card number"
    if digits == written or not 8 <= len(digits) <= 15 or DATE.match(written):
        return None  # a plain number, or a date
    return "phone number" if any(_is_phone_number(written, region) for region in regions) else None


def _is_phone_number(written: str, region: str) -> bool:
    import phonenumbers

    digits = re.sub(r"\D", "", written)
    try:
        number = phonenumbers.parse(written, region)
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_valid_number(number) and (written[0] == "+" or len(digits) >= 10)
