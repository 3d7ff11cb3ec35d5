"Numbers and addresses that are somebody's, and those that are nobody's."

import pytest

from ftguide.engine.personal_data import personal_data


@pytest.mark.parametrize(
    "text, found",
    [
        ("to ana+shop@example.com.br now", [("e-mail", "ana+shop@example.com.br")]),
        ("529.982.247-25 ", [("CPF", "529.982.247-25")]),
        ("52998224725", [("CPF", "52998224725")]),
        ("529.982.247-26", []),
        ("529-982-247-25", []),
        ("4111-1111-1111-1111", [("card number", "4111-1111-1111-1111")]),
        ("4111 1111 1111 1112", []),
        ("378282246310005", [("card number", "378282246310005")]),
        ("+44 20 7946 0958", [("phone number", "+44 20 7946 0958")]),
        ("(11) 91234-5678", [("phone number", "(11) 91234-5678")]),
        ("(000) 000-0000 x", []),
        ("(212) 736-5000", [("phone number", "(212) 736-5000")]),
        ("11912345678", []),
        ("2024-05-06 12:30", []),
        ("3031-5000", []),
        ("+55 11 3031 5000", [("phone number", "+55 11 3031 5000")]),
        ("1234 567", []),
        ("1234 5678 9012 3456 7", []),
        ("+290 22345", [("phone number", "+290 22345")]),
        ("a@example.com, b@example.com", [("e-mail", "a@example.com"), ("e-mail", "b@example.com")]),
    ],
)
def test_numbers_that_are_somebodys(text, found):
    assert personal_data(text) == found


@pytest.mark.parametrize(
    "text, kinds",
    [
        ("write to ana+shop@example.com.br now", ["e-mail"]),
        ("529.982.247-25", ["CPF"]),
        ("52998224725", ["CPF"]),
        ("529.982.247-26", []),
        ("4111-1111-1111-1111", ["card number"]),
        ("4111 1111 1111 1112", []),
        ("378282246310005", ["card number"]),
        ("+44 20 7946 0958", ["phone number"]),
        ("(11) 91234-5678", ["phone number"]),
        ("order 20240506123", []),
        ("2024-05-06 12:30", []),
        ("12 + 345 = 357", []),
        ("size: 1200 ml, 24 months", []),
        ("@" * 5000, []),
        ("1 " * 50_000, []),
        ("a" * 100_000 + "@", []),
    ],
)
def test_personal_data(text, kinds):
    assert [what for what, _ in personal_data(text)] == kinds
