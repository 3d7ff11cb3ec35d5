"Debian's packages: the extract, the rows made of it, the rules for a synopsis, and the script that makes it."

import re
from collections import Counter
from pathlib import Path

import packages as tool  # tools/packages.py
import pyarrow.parquet
import pytest

import ftguide
from ftguide.engine.texts import normalised_text
from ftguide.packages import (
    SECTIONS,
    SPLITS,
    SYNOPSIS_RULES,
    TASKS,
    load_packages,
    package_row,
    prefer_synopsis,
    read_packages,
    score_package,
    synopsis_faults,
)

EXAMPLES = Path(ftguide.__file__).parent / "examples"
PACKAGES = read_packages()


def test_extract_is_small_and_whole():
    assert (EXAMPLES / "packages.parquet").stat().st_size < 1.5e6
    for package in PACKAGES:
        filled = [v for k, v in package.items() if not k.endswith("_pt")]
        assert all(isinstance(value, str) and value.strip() for value in filled), package["name"]
        assert (package["synopsis_pt"] is None) == (package["description_pt"] is None)
        assert "" not in (package["synopsis_pt"], package["description_pt"])
        assert not re.search(r"^(?:\.$|[ \t])", package["description"], re.M), package["name"]
        assert tool.LENGTH[0] <= len(package["description"]) <= tool.LENGTH[1]
        assert "\n" not in package["synopsis"]


def test_extract_has_each_package_and_each_text_once():
    for column in ("name", "source", "synopsis", "description"):
        values = [normalised_text(package[column]) for package in PACKAGES]
        assert len(set(values)) == len(values), Counter(values).most_common(1)


def test_twelve_sections_in_every_part():
    for split in SPLITS:
        assert {package["section"] for package in read_packages(split)} == set(SECTIONS)
    assert len(SECTIONS) == 12 and len(read_packages("train")) > 2500 and len(read_packages("test")) > 400
    assert sum(package["synopsis_pt"] is not None for package in read_packages("test")) > 150


def test_siblings_never_cross():
    where = {}
    for package in PACKAGES:
        assert where.setdefault(tool.family(package["source"]), package["split"]) == package["split"]


def test_card_says_what_the_file_says():
    card = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    told = [len(PACKAGES), sum(p["synopsis_pt"] is not None for p in PACKAGES)]
    told += [len(read_packages(split)) for split in SPLITS]
    assert [f"{n:,}" in card for n in told] == [True] * 5
    assert ", ".join(SECTIONS) in card


def test_rows_are_seeded_and_balanced():
    rows = load_packages("train", 60)
    assert Counter(row["task"] for row in rows) == dict.fromkeys(TASKS, 20)
    assert rows == load_packages("train", 90)[:60] != load_packages("train", 60, seed=1)
    assert len({row["package"]["name"] for row in rows}) == 60
    for row in rows:
        package = row["package"]
        answer = dict(
            synopsis=package["synopsis"], section=package["section"], translation=package["synopsis_pt"]
        )
        assert row["completion"] == answer[row["task"]]
        assert package[("description", "synopsis")[row["task"] == "translation"]] in row["prompt"]


def test_excluded_packages_do_not_come_again():
    rows = load_packages("train", 300)
    others = load_packages("train", 300, ("synopsis",), exclude=rows)
    assert not {r["package"]["name"] for r in rows} & {r["package"]["name"] for r in others}


def test_rows_do_not_share_what_they_hold():
    load_packages("test", 3)[0]["package"]["synopsis"] = "changed"
    assert load_packages("test", 3)[0]["package"]["synopsis"] != "changed"


def test_a_package_comes_again_only_for_another_task():
    n = 3 * sum(package["synopsis_pt"] is not None for package in read_packages("valid"))
    rows = load_packages("valid", n)
    assert len({(row["task"], row["package"]["name"]) for row in rows}) == n
    with pytest.raises(ValueError, match="translation"):
        load_packages("valid", n + 3)


@pytest.mark.parametrize(
    "wrong", [dict(split="all"), dict(tasks="section"), dict(tasks=()), dict(tasks=("ad",)), dict(n=10**6)]
)
def test_requests_that_cannot_be_met(wrong):
    with pytest.raises(ValueError):
        load_packages(**{"n": 3, **wrong})


def test_no_row_without_an_answer():
    untranslated = next(package for package in PACKAGES if package["synopsis_pt"] is None)
    with pytest.raises(ValueError, match=untranslated["name"]):
        package_row("translation", untranslated)
    with pytest.raises(ValueError, match="unknown task"):
        package_row("ad", untranslated)


GOOD = [
    "text editor for the console",
    "GNU debugger for embedded boards",
    "Python library that reads Ogg files",
    "X11 screen locker",
    "OpenGL viewer for 3D scans",
    "PDF to SVG converter, with tables, figures, etc.",
    "monitor for disks with S.M.A.R.T.",
    "Debian archive checker",
    "A* search on maps of streets",
    "4K wallpapers",
    "D-Bus client for scripts",
    "find out which of two images is the original",
    "TeX fonts by Smith & Co.",
]
FAULTY = {
    "one word or none": ["", "editor", "   "],
    "several lines": ["text editor\nfor the console"],
    "80 characters or more": ["editor " * 12],
    "begins with an article": ["a text editor for X", "An editor for the console", "The editor of editors"],
    "begins with the package's name": ["foo-bar text editor", "Foo Bar, an editor", "foo_bar: text editor"],
    "begins with a capital": ["Tool for reading files", "Graphical viewer of images", "Simple mail client"],
    "ends like a sentence": ["text editor for the console.", "shoot the bugs now!"],
    "is a sentence": ["this package edits texts", "foo is an editor for X", "it edits texts"],
    "praises": ["powerful text editor", "Powerful text editor", "viewer that is easy to use"],
}


@pytest.mark.parametrize("text", GOOD)
def test_good_synopsis(text):
    assert synopsis_faults(text, "foo-bar") == []


@pytest.mark.parametrize("fault, text", [(fault, text) for fault, texts in FAULTY.items() for text in texts])
def test_faulty_synopsis(fault, text):
    assert fault in synopsis_faults(text, "foo-bar")
    assert set(FAULTY) == set(SYNOPSIS_RULES)


@pytest.mark.parametrize(
    "name, text",
    [
        ("vim", "vim-like editor for the web"),
        ("gtk", "GTK+ viewer of images"),
        ("awesome-extra", "widgets for awesome"),
        ("python3-tool", "Tool in the interpreter"),  # may be the name of what it is
    ],
)
def test_names_are_no_faults(name, text):
    assert synopsis_faults(text, name) == []


def test_most_maintainers_keep_the_rules():
    "Rules that most of their authors break would be misread."
    broken = Counter(f for p in PACKAGES for f in synopsis_faults(p["synopsis"], p["name"]))
    assert broken["begins with a capital"] < 0.3 * len(PACKAGES)
    assert all(n < 0.02 * len(PACKAGES) for fault, n in broken.items() if fault != "begins with a capital")


def test_preference():
    "From the worst to the best; each is worse than all that follow."
    row = load_packages("train", 1, ("synopsis",))[0]
    good = row["package"]["synopsis"] = "converter of numbers into letters"
    texts = [
        "A converter of numbers into letters.",  # two faults
        "converter of numbers into letters.",
        "tool without any likeness",
        "converter of numbers",
        good,
    ]
    for i, a in enumerate(texts):
        for j, b in enumerate(texts):
            assert prefer_synopsis(row, a, b, 0) == (i > j) - (i < j), (a, b)


def test_scores():
    rows = {row["task"]: row for row in load_packages("test", 3)}
    rows["synopsis"] = dict(rows["synopsis"], completion="text editor for X")
    assert score_package(rows["section"], rows["section"]["completion"].upper()) == {"section": (1, 1)}
    assert score_package(rows["section"], "none") == {"section": (0, 1)}
    assert score_package(rows["translation"], rows["translation"]["completion"])["chrF"] == (1, 1)
    assert score_package(rows["translation"], "")["chrF"] == (0, 1)
    assert score_package(rows["synopsis"], "text editor for X") == {"ROUGE-L": (1, 1), "no fault": (1, 1)}
    assert score_package(rows["synopsis"], "A text editor for X.")["no fault"] == (0, 1)
    assert score_package(dict(completion="x"), "x")["exact match"] == (1, 1)


# The script, on an index of our own
TEXT = (
    "It reads the files that a camera wrote and shows them in the order in which they were taken, with dates."
)


def index_of(packages: dict[str, dict]) -> tuple[str, str, str]:
    "Packages, Translation-en and Translation-pt_BR."
    stanza = lambda **fields: "\n".join(f"{k.replace('_', '-')}: {v}" for k, v in fields.items())
    index, english, portuguese = [], [], []
    for name, given in packages.items():
        key = dict(Package=name, Description_md5=f"md5-{name}")
        source = dict(Source=given["source"]) if "source" in given else {}
        index.append(stanza(**key, **source, Version="1.0-1", Section=given.get("section", "utils")))
        long = given.get(
            "long", f" {name}: {TEXT}\n .\n  - {name} reads\n    RAW files\n  - and {name} shows them"
        )
        synopsis = given.get("synopsis", f"viewer number {name} of pictures")
        english.append(stanza(**key) + f"\nDescription-en: {synopsis}\n{long}")
        if given.get("translated"):
            portuguese.append(stanza(**key) + f"\nDescription-pt_BR: visor {name} de fotos\n{long}")
    return tuple("\n\n".join(stanzas) + "\n" for stanzas in (index, english, portuguese))


NAMES = ("amberview", "birchread", "cedarshow", "driftscan", "elmfinder")


def test_script_unwraps_descriptions():
    rows, _ = tool.extract(*index_of({"amberview": dict(source="amber (1.2)", translated=True)}))
    (row,) = rows
    assert (
        row["description"] == f"amberview: {TEXT}\n\n- amberview reads RAW files\n- and amberview shows them"
    )
    assert (row["source"], row["version"], row["section"]) == ("amber", "1.0-1", "utils")
    assert (row["synopsis_pt"], row["description_pt"]) == ("visor amberview de fotos", row["description"])


@pytest.mark.parametrize(
    "lines, text",
    [
        (["a", "b", ".", "c"], "a b\n\nc"),
        (["a:", "- b", "- c", "d"], "a:\n- b\n- c d"),
        (["a", " code b", " code c", "d"], "a\ncode b\ncode c\nd"),
        (["a", "o b"], "a o b"),  # Portuguese has a word "o"
        (["a", " o b", "   c"], "a\no b c"),
        (["a", ".", ".", "b", "."], "a\n\nb"),
    ],
)
def test_script_keeps_lists_and_code(lines, text):
    assert tool.unwrapped([" " + line for line in lines]) == text


@pytest.mark.parametrize(
    "given",
    [
        dict(section="libs"),
        dict(section="contrib/perl"),
        dict(long=" Too short."),
        dict(long=f" {TEXT * 8}"),
        dict(synopsis="transitional package for amberview"),
        dict(long=f" {TEXT} Write to ana.b@example.com with questions about it, or to the list."),
        dict(source="birchread"),
    ],
)
def test_script_leaves_out(given):
    rows, counts = tool.extract(*index_of({"amberview": given, "birchread": {}}))
    assert [row["name"] for row in rows] == ["birchread"]
    assert counts.pop("packages") == 2 and sorted(counts.values())[-1] == sum(counts.values()) == 1


def test_script_keeps_one_of_two_with_one_synopsis():
    made = {"amberview": {}, "birchread": dict(synopsis="Viewer number  amberview of pictures")}
    assert [row["name"] for row in tool.extract(*index_of(made))[0]] == ["amberview"]


def test_script_leaves_parts_out():
    rows, _ = tool.extract(*index_of({"birchread": {}, "amber-data": {}, "cedar-l10n-pt": {}}))
    assert [row["name"] for row in rows] == ["birchread"]


def test_script_keeps_siblings_and_near_duplicates_on_one_side():
    made = {f"{name}-{n}": dict(source=f"{name}-{n}") for name in NAMES for n in (8, 9)}
    rows, _ = tool.extract(*index_of(made))
    assert [row["source"][:-2] for row in rows] == sorted(NAMES)
    same = {name: dict(long=f" {TEXT} {TEXT} The letter here is {name[0]}.") for name in NAMES}
    assert len({row["split"] for row in tool.extract(*index_of(same))[0]}) == 1


def test_script_prefers_what_is_translated():
    made = {"amberview": dict(source="amber"), "zinc": dict(source="amber", translated=True)}
    (row,) = tool.extract(*index_of(made))[0]
    assert row["name"] == "zinc"


def test_script_writes_the_same_bytes_twice(tmp_path):
    made = {name: dict(translated=name > "c") for name in NAMES}
    index = index_of(made)
    again = index_of(dict(reversed(made.items())))
    for name, texts in (("a", index), ("b", again)):
        rows, counts = tool.extract(*texts)
        tool.write(rows, dict(counts=counts), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert pyarrow.parquet.read_table(tmp_path / "a").column_names == list(tool.COLUMNS)
