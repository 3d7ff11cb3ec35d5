"In which language a text is: right or not said, and rows that answer in another one."

import random
from collections import Counter

import pytest

from ftguide.data import check
from ftguide.engine.languages import language
from ftguide.engine.texts import normalised_text
from ftguide.market import load_tasks
from ftguide.packages import read_packages

SAID = {
    "Spanish": "El producto es muy bueno y la entrega fue rápida, pero el color no es el que se muestra.",
    "French": "Le produit est très bon et la livraison a été rapide, mais la couleur est une autre.",
    "German": "Das Produkt ist sehr gut und die Lieferung war schnell, aber die Farbe ist es nicht.",
    "Italian": "Il prodotto è molto buono e la consegna è stata veloce, ma il colore non è quello.",
    "Cyrillic": "Товар очень хороший, доставка быстрая.",
    "Arabic": "المنتج جيد جدا",
    "Hangul": "제품이 아주 좋습니다",
    "Cjk": "这个产品很好",
    "": "Zorzanpax Vexfax-18, 510 ml",
}


@pytest.mark.parametrize("name", SAID)
def test_language(name):
    assert language(normalised_text(SAID[name])) == name


def test_descriptions_in_two_languages():
    for column, name in (("description", "English"), ("description_pt", "Portuguese")):
        found = Counter(language(normalised_text(p[column])) for p in read_packages() if p[column])
        n = found.total()
        assert found[name] >= 0.85 * n and n - found[name] - found[""] <= 0.003 * n, found


def described(packages, column):
    ask = dict(
        description="Describe the package {} for us, and what it is for.",
        description_pt="Descreva o pacote {} para nós, e o que ele faz para as pessoas.",
    )
    return [dict(prompt=ask[column].format(p["name"]), completion=p[column]) for p in packages]


def test_answers_in_another_language_are_found():
    packages = [p for p in read_packages("train") if p["description_pt"]][:300]
    rows = described(packages[:200], "description") + described(packages[200:], "description_pt")
    assert "mixed languages" not in check(rows)  # two languages, each asked and answered in its own
    rng = random.Random(0)
    strange = sorted(rng.sample(range(200), 10))
    for i in strange:
        rows[i]["completion"] = packages[i]["description_pt"]
    found = check(rows)["mixed languages"]
    assert set(found.rows) <= set(strange) and len(found.rows) >= 8 and "Portuguese" in found.example
    for i in strange:
        rows[i]["prompt"] += " Answer in Portuguese, for it is a translation."
    assert "mixed languages" not in check(rows)


@pytest.mark.parametrize("lang", ["en", "pt"])
def test_no_false_alarms(lang):
    rows = load_tasks("train", 2000, lang, seed=3)
    assert "mixed languages" not in check(rows)
