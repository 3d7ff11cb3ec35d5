"The marketplace: what an ad is read to claim, and requests for tasks that do not exist."

import pytest

from ftguide.market import Product, load_tasks, purchase_probability, score_ad, stated_values, task_row

MUG = Product("mug", "Zavolor", "Gexgor-61", "green", "clay", "300 ml", "24 months", "lid")
CANECA = Product("caneca", "Zavolor", "Gexgor-61", "verde", "barro", "300 ml", "24 meses", "tampa", "pt")


@pytest.mark.parametrize(
    "ad, p",
    [
        ("size 300 ml.", MUG),
        ("Size 300ml.", MUG),
        ("size 300 ML.", MUG),
        ("a 300-ml mug.", MUG),
        ("24 months of warranty.", MUG),
        ("a 24-month warranty.", MUG),
        ("24 Month warranty.", MUG),
        ("in green, colour Green.", MUG),
        ("in GREEN.", MUG),
        ("24 meses de garantia.", CANECA),
        ("24 mês.", CANECA),
        ("300ml.", CANECA),
    ],
)
def test_a_true_claim_is_one_however_it_is_spelt(ad, p):
    s = score_ad(ad, p)
    assert (s["right"], s["wrong"]) == (1, 0), stated_values(ad, p.lang)
    assert purchase_probability(ad.lower(), p) > purchase_probability("a thing", p)


@pytest.mark.parametrize(
    "ad, wrong",
    [
        ("size 301 ml.", 1),
        ("301ml, size 301 ml.", 1),
        ("in red, colour RED.", 1),
        ("12-month warranty, 24 months.", 1),
        ("in red, 30 cm.", 2),
        ("the Gexgor-61 of Mirlor.", 1),
        ("Tray in green.", 1),
        ("A TRAY, a tray, a mug.", 1),
        ("A mug, a tray and a bag.", 2),
    ],
)
def test_a_false_claim_counts_once(ad, wrong):
    assert score_ad(ad, MUG)["wrong"] == wrong


def test_an_ad_for_another_kind_of_thing_sells_less():
    right, wrong = "Caneca Zavolor, verde, 300 ml.", "Manta Zavolor, verde, 300 ml."
    scores = [score_ad(ad, CANECA) for ad in (right, wrong)]
    assert [s["truth"] for s in scores] == [1, 0.75]
    assert purchase_probability(wrong, CANECA) < purchase_probability(right, CANECA)


def test_values_are_given_as_they_stand_in_the_ad():
    found = stated_values("Zavolor Gexgor-61, in GREEN, green, 300ml, size 300 ML, by Mirlor.")
    assert (found["colour"], found["size"], found["brand"], found["model"]) == (
        ["GREEN"],
        ["300ml"],
        ["Zavolor", "Mirlor"],
        ["Gexgor-61"],
    )


@pytest.mark.parametrize(
    "tasks, says",
    [
        (("ads",), "unknown task 'ads'; there are ad, extraction"),
        ("ad", r"tasks must be a tuple such as \('ad',\)"),
        ((), "tasks must be a tuple"),
    ],
)
def test_unknown_tasks(tasks, says):
    with pytest.raises(ValueError, match=says):
        load_tasks(tasks=tasks, n=2)


def test_unknown_task_row():
    import random

    with pytest.raises(ValueError, match="unknown task 'ads'"):
        task_row("ads", MUG, random.Random(0))


def test_orders_tell_more_than_colours_only_where_it_is_asked():
    from itertools import islice

    from ftguide.market import COLOURS
    from ftguide.tiny import MODEL_SIZES, pretraining_pages

    said = lambda orders: {
        line.rsplit(", ", 1)[1]
        for text in islice(pretraining_pages(200, 0.5, orders), 300)
        if text.startswith(("You ordered:", "Seu pedido:"))
        for line in text.splitlines()
        if line.startswith("- ")
    }
    colours = {*COLOURS["en"], *COLOURS["pt"]}
    assert said(0.0) <= colours and not said(0.6) <= colours
    assert all(
        [bool(phase[3]) for phase in size["phases"]] == [False] * (len(size["phases"]) - 1) + [True]
        for size in MODEL_SIZES.values()
    )  # as the shipped models were trained
