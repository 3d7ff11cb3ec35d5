"""Makes ftguide/examples/packages.parquet from Debian's index of packages and its translations.

    apt-get update -o Acquire::Languages=en,pt_BR     # many images set no language
    python tools/packages.py [FOLDER]                 # with the index files; by default apt's own folder

The same index gives the same file, byte for byte. What is left out, and why, stands beside the rule that
leaves it out, and how many in the file's metadata; ftguide/examples/README.md is the data card.
"""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the script's own copy of the package
from ftguide.engine.duplicates import near_duplicates
from ftguide.engine.personal_data import personal_data
from ftguide.engine.texts import normalised_text

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "ftguide/examples/packages.parquet"
LISTS = Path("/var/lib/apt/lists")
LENGTH = 150, 700  # characters of a description: enough to sum up, and quick to read on a CPU
SECTIONS, MOST = 12, 400  # sections, and packages of each
NEAR = 80  # similarity, 0..100, from which two descriptions stay on one side of the split
SHARES = dict(train=0.8, valid=0.05, test=0.15)
TEXTS = ("name", "source", "version", "section", "synopsis", "description", "synopsis_pt", "description_pt")
COLUMNS = (*TEXTS, "split")

# Sections that say what kind of file a package is, or that gather what fits nowhere, and not what it is about
KINDS = re.compile("debug|doc|introspection|libdevel|libs|localization|metapackages|misc|oldlibs|tasks")
# Libraries by the programming language they are written in: the language decides, not the subject
LANGUAGES = re.compile("golang|gnu-r|haskell|java|javascript|lisp|ocaml|perl|php|python|ruby|rust")
# Packages that are a part of another one, whose descriptions repeat the other's
PARTS = re.compile(
    r"-(?:bin|cli|common|data|dbg|dev|docs?|examples?|gtk\d?|gui|i18n|l10n|locales?|plugins?|qt\d?|tests?|tools?"
    r"|udeb|utils?)$|-(?:l10n|i18n|locale)-"
)
EMPTY = re.compile(r"\b(?:transitional|dummy|meta-?package|virtual package|debug symbols)\b", re.I)


def stanzas(text: str) -> Iterator[dict[str, str]]:
    "The paragraphs of a control file, as dicts; the lines of a value are kept."
    for paragraph in text.split("\n\n"):
        fields, name = {}, ""
        for line in paragraph.splitlines():
            if line.startswith((" ", "\t")):
                fields[name] += "\n" + line
            elif line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields


def unwrapped(lines: list[str]) -> str:
    """A long description (Debian Policy 5.6.13) with a line for each paragraph and each item of a list.

    A line that begins with two spaces or more stands for itself, unless it goes on with an item."""
    done, verbatim, item = [], True, False
    for line in lines:
        text = " ".join(line.split())
        indented = line.startswith("  ")
        begins = re.match(r"(?:[-*+•]|\d+[.)]) " + ("|o " if indented else ""), text)
        if text == ".":
            done.append("")
            verbatim = item = False
        elif begins or not done or not done[-1] or ((indented or verbatim) and not item):
            done.append(text)
            verbatim, item = indented and not begins, bool(begins)
        else:
            done[-1] += " " + text
    return re.sub(r"\n{3,}", "\n\n", "\n".join(done)).strip()


def parted(description: str) -> tuple[str, str]:
    "The synopsis and the unwrapped long description."
    synopsis, *lines = description.split("\n")
    return " ".join(synopsis.split()), unwrapped(lines)


def family(source: str) -> str:
    "A source package without the version in its name: gcc-12 and gcc-13 are siblings."
    return re.sub(r"[-.]?v?\d[\d.]*$", "", source) or source


def text_of(row: dict) -> str:
    return "\n".join(row[name] or "" for name in TEXTS[4:])


LEFT_OUT = {  # why -> which packages; the first that applies counts
    "section names a kind of file": lambda row: KINDS.fullmatch(row["section"]),
    "section names a programming language": lambda row: LANGUAGES.fullmatch(row["section"]),
    "name says it is a part of another package": lambda row: PARTS.search(row["name"]),
    "text says there is nothing in it": lambda row: EMPTY.search(text_of(row)),
    "description of less than {} or more than {} characters".format(*LENGTH): lambda row: (
        not LENGTH[0] <= len(row["description"]) <= LENGTH[1]
    ),
    "text holds an e-mail address or other personal data": lambda row: personal_data(
        text_of(row), ("BR", "US")
    ),
}


def package(fields: dict[str, str], english: dict[str, str], portuguese: dict[str, str]) -> dict:
    "A row from a paragraph of the index; descriptions are found by their MD5 sum."
    key, name = fields["Description-md5"], fields["Package"]
    source = fields.get("Source", name).split()[0]
    section = fields["Section"].split("/")[-1]
    both = [parted(texts[key]) if key in texts else ("", "") for texts in (english, portuguese)]
    (synopsis, description), translated = both
    if not all(translated) or translated[0] == synopsis:
        translated = (None, None)
    return dict(zip(TEXTS, (name, source, fields["Version"], section, synopsis, description, *translated)))


def drawn(*names: str) -> float:  # 0..1
    "A number that depends on names alone."
    return int.from_bytes(sha256("/".join(names).encode()).digest()[:8]) / 2**64


def one_of_each(rows: list[dict]) -> list[dict]:
    "One package of a family: a translated one if there is, then the one named as the source."
    families = defaultdict(list)
    for row in rows:
        families[family(row["source"])].append(row)
    rank = lambda row: (row["synopsis_pt"] is None, row["name"] != row["source"], row["name"], row["version"])
    return [min(families[name], key=rank) for name in sorted(families)]


def without_copies(rows: list[dict]) -> list[dict]:
    "Rows whose synopsis and description stand in no row before."
    seen, kept = set(), []
    for row in rows:
        texts = {normalised_text(row["synopsis"]), normalised_text(row["description"])}
        if not texts & seen:
            kept.append(row)
            seen |= texts
    return kept


def largest(rows: list[dict]) -> list[dict]:
    "Some packages of each of the largest sections, the translated first, then drawn by name; sorted by name."
    sections = defaultdict(list)
    for row in rows:
        sections[row["section"]].append(row)
    kept = []
    for name in sorted(sections, key=lambda name: (-len(sections[name]), name))[:SECTIONS]:
        rank = lambda row: (row["synopsis_pt"] is None, drawn("extract", row["source"]))
        kept += sorted(sections[name], key=rank)[:MOST]
    return sorted(kept, key=lambda row: row["name"])


def add_split(rows: list[dict]):
    "A family is drawn into train, valid or test; a near duplicate goes where the first of its kind went."
    near = near_duplicates([normalised_text(row["description"]) for row in rows], least=NEAR)
    for i, row in enumerate(rows):
        if i in near:
            row["split"] = rows[near[i][0]]["split"]
            continue
        place = drawn("split", family(row["source"]))
        row["split"] = "train" if place < SHARES["train"] else "test"
        if SHARES["train"] <= place < SHARES["train"] + SHARES["valid"]:
            row["split"] = "valid"


def extract(index: str, english: str, portuguese: str) -> tuple[list[dict], dict[str, int]]:
    "The rows, and how many packages were left out for which reason."
    translations = [
        {fields["Description-md5"]: fields[f"Description-{language}"] for fields in stanzas(text)}
        for language, text in (("en", english), ("pt_BR", portuguese))
    ]
    every = [package(fields, *translations) for fields in stanzas(index)]
    rows, left_out = every, {}
    for reason, applies in LEFT_OUT.items():
        kept = [row for row in rows if not applies(row)]
        left_out[reason] = len(rows) - len(kept)
        rows = kept
    for step, reason in (
        (one_of_each, "another package of the same source stands for it"),
        (without_copies, "synopsis or description of another package"),
        (largest, f"not of the {SECTIONS} largest sections, or above {MOST} of one"),
    ):
        kept = step(rows)
        left_out[reason] = len(rows) - len(kept)
        rows = kept
    add_split(rows)
    return rows, dict(packages=len(every)) | left_out


def write(rows: list[dict], about: dict, target: Path):
    "As Parquet, with `about` as JSON in the file's metadata."
    schema = pa.schema([(name, pa.string()) for name in COLUMNS], metadata={"about": json.dumps(about)})
    table = pa.Table.from_pylist(rows, schema)
    pyarrow.parquet.write_table(
        table, target, compression="zstd", compression_level=19, write_statistics=False
    )


def found(folder: Path, name: str) -> str:
    "The text of the index file whose name ends like that pattern, compressed or not."
    names = sorted(p for p in folder.glob("*") if re.search(name + r"(?:\.(?:lz4|xz|gz|bz2|zst))?$", p.name))
    if not names:
        call = __doc__.splitlines()[2].split("#")[0].strip()
        sys.exit(f"no file ...{name} in {folder}; fetch it by\n{call}")
    if re.search(name + "$", names[0].name):
        return names[0].read_text(encoding="utf-8")
    unpack = ["/usr/lib/apt/apt-helper", "cat-file", names[0]]
    return subprocess.run(unpack, check=True, capture_output=True).stdout.decode()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", nargs="?", type=Path, default=LISTS, help="with apt's index files")
    arguments.add_argument("--release", default="bookworm")
    arguments.add_argument("--out", type=Path, default=TARGET)
    given = arguments.parse_args()
    release = f"_dists_{given.release}_"
    names = ("main_binary-amd64_Packages", "main_i18n_Translation-en", "main_i18n_Translation-pt(?:_|%5f)BR")
    rows, counts = extract(*(found(given.folder, release + name) for name in names))
    about = dict(next(stanzas(found(given.folder, release + "(?:In)?Release").split("\n\n", 1)[1])))
    about = dict(
        release=f"{about['Origin']} {about['Version']} {given.release} main amd64", date=about["Date"]
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write(rows, about | dict(counts=counts), given.out)
    print(f"{given.out}: {len(rows):,} packages, {given.out.stat().st_size / 1e6:.2f} MB")
    for name, n in counts.items():
        print(f"{n:7,} {name}")
    for section in sorted({row["section"] for row in rows}):
        own = [row for row in rows if row["section"] == section]
        parts = Counter(row["split"] for row in own)
        translated = sum(row["synopsis_pt"] is not None for row in own)
        print(f"{len(own):7,} {section:10} {translated:4} translated", dict(parts))


if __name__ == "__main__":
    main()
