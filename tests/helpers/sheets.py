"Rating sheets and conversations that several test files fill in."

import csv
import json

from ftguide.judges import human_sheet

HOSTILE = [
    "<script>document.title='owned'</script>",
    "</pre></fieldset><img src=x onerror=alert(1)>",
    "=1+1",
    "-2+3;\"quoted\", 'too'",
    "line one\nline two\r\n@sum",
    "ação 漢字 🙂 \u202e",
    "{{x}} @ROWS@ @SHEET@ &amp;",
    "",
    "+55 11",
    "\ttab",
]


def sheet(tmp_path, n=10):
    rows = [dict(prompt=f"Question {i}: {HOSTILE[i % 10]}") for i in range(n)]
    models = {
        "secret-one": lambda prompts: [HOSTILE[i % 10] for i in range(len(prompts))],
        "secret-two": lambda prompts: [f"plain answer {i}" for i in range(len(prompts))],
    }
    return human_sheet(models, rows, tmp_path / "sheet", n=n), tmp_path / "sheet/key.json"


def fill(path, key, choose):
    items = json.loads(key.read_text(encoding="utf-8"))["items"]
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("id", "better"), *((i, choose(r)) for i, r in items.items())])
    return path


def talk(about, *, system="Answer in Portuguese.", last="shorter", after=()):
    turns = [
        ("system", system),
        ("user", f"talk about {about}"),
        ("assistant", f"a long {about}"),
        ("user", last),
        ("assistant", about),
        *after,
    ]
    return dict(messages=[dict(role=role, content=text) for role, text in turns])
