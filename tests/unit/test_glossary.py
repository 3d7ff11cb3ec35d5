"Words: each leads to a place that uses it."

import re
from pathlib import Path

from book import NBS, anchor, cells

ROOT = Path(__file__).resolve().parents[2]


def section(path, part: str) -> str:
    "Text and code under a heading, deeper headings included; the whole page without one."
    kept, level = [], 0 if part else 9
    for c in cells(path):
        text = (
            re.sub(r"^```.*?^```", "", c["source"], flags=re.M | re.S)
            if c["cell_type"] == "markdown"
            else None
        )
        for line in c["source"].splitlines() if text is None else text.splitlines():
            if part and text is not None and (h := re.match(r"(#+) (.+)$", line)):
                if level and len(h[1]) <= level:
                    return "\n".join(kept)
                if anchor(h[2]) == part:
                    level = len(h[1])
            if level:
                kept.append(line)
    return "\n".join(kept)


def plain(text: str) -> str:
    return re.sub(r"[-–_]", " ", text.lower())


def test_every_word_stands_where_its_link_leads():
    entries = [
        e
        for c in cells(NBS / "glossary.ipynb")
        for e in re.findall(r"^\*\*(.+?)\*\* \(pt: .*\]\(([^)#]+)#?([^)]*)\)$", c["source"], re.M)
    ]
    absent = [
        f"{word}: {page}#{part}"
        for words, page, part in entries
        for word in re.sub(r" \(.\)", "", words).split(", ")
        if plain(word) not in plain(section(NBS / page, part))
    ]
    assert len(entries) >= 50 and not absent, absent
