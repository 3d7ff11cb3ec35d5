"The model card: one that the hub reads, which says what is known and what is not."

import json

import pytest

from ftguide.deployment import Gate, deploy
from ftguide.engine.formats import DataError
from ftguide.evaluation import evaluate
from ftguide.market import load_tasks
from ftguide.models import load
from ftguide.serving.card import data_fingerprints, model_card

OPEN = Gate(quality=0.0)


@pytest.fixture(scope="module")
def lm():
    return load("tiny-small")


@pytest.fixture(scope="module")
def report(lm):
    return evaluate(lm, load_tasks("test", 3, tasks=("ad",)), metrics=("quality",), max_new_tokens=8)


def test_the_card_is_one_that_the_hub_reads(lm, report, tmp_path):
    from huggingface_hub import ModelCard

    (tmp_path / "train.jsonl").write_text(
        '{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n'
    )
    there = deploy(
        lm,
        tmp_path / "ads",
        report,
        OPEN,
        data=tmp_path / "train.jsonl",
        license="apache-2.0",
        base="HuggingFaceTB/SmolLM2-360M",
    )
    card = ModelCard.load(there / "README.md")
    d = card.data
    assert (d.license, d.base_model, d.library_name, d.pipeline_tag) == (
        "apache-2.0",
        "HuggingFaceTB/SmolLM2-360M",
        "transformers",
        "text-generation",
    )
    assert {r.metric_name: r.metric_value for r in d.eval_results} == {
        m: round(s.value, 4) for m, s in report.scores.items()
    }
    import hashlib

    digest = hashlib.sha256((tmp_path / "train.jsonl").read_bytes()).hexdigest()
    assert f"| train.jsonl | 2 | `{digest}` |" in card.text and "| truth |" in card.text
    record = json.loads((there / "deployment.json").read_text())
    assert (
        record["data"] == [dict(name="train.jsonl", rows=2, sha256=digest)]
        and record["license"] == "apache-2.0"
        and record["weights"] == report.weights
    )


def test_a_card_says_what_is_not_known(lm, report, tmp_path):
    from huggingface_hub import ModelCard

    card = model_card(lm, report, OPEN.rules(), base=str(tmp_path))
    assert (
        ModelCard(card).data.base_model is None
        and ModelCard(card).data.license is None
        and "No licence was stated" in card
        and f"Made from {tmp_path}" in card
    )
    with pytest.raises(ValueError, match="license must be written as the hub writes it"):
        deploy(lm, tmp_path, report, OPEN, license="Apache 2.0!")


def test_fingerprints_of_data(tmp_path, monkeypatch):
    rows = [dict(prompt="é", completion="b"), dict(prompt="c", completion="\ud800")]
    one = data_fingerprints(rows)[0]
    assert (
        one["rows"] == 2
        and one == data_fingerprints({"rows": [dict(reversed(list(r.items()))) for r in rows]})[0]
        and one["sha256"] != data_fingerprints(rows[::-1])[0]["sha256"]
    )
    a, b = tmp_path / "a.jsonl", tmp_path / "b.csv"
    a.write_text('{"prompt": "x", "chosen": "y", "rejected": "z"}\n')
    b.write_text("input,output\n1,2\n3,4\n")
    assert [(d["name"], d["rows"]) for d in data_fingerprints([a, str(b)])] == [
        ("a.jsonl", 1),
        ("b.csv", 2),
    ] and data_fingerprints(None) == []
    with pytest.raises(DataError, match="no file"):
        data_fingerprints(tmp_path / "none.jsonl")
    same = [
        tmp_path / f
        for f in (
            "x/en/train.jsonl",
            "x/pt/train.jsonl",
            "y/pt/train.jsonl",
            "x/valid.jsonl",
            "x/y/../en/train.jsonl",
        )
    ]
    (tmp_path / "x/y").mkdir(parents=True)
    for n, f in enumerate(same[:4]):
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_text(f'{{"prompt": "{n}", "completion": "b"}}\n')
    found = data_fingerprints(same)
    assert [d["name"] for d in found] == [
        "en/train.jsonl",
        "x/pt/train.jsonl",
        "y/pt/train.jsonl",
        "valid.jsonl",
    ] and len({d["sha256"] for d in found}) == 4
    monkeypatch.chdir(tmp_path / "x")
    assert [d["name"] for d in data_fingerprints(["valid.jsonl", "en/train.jsonl", "pt/train.jsonl"])] == [
        "valid.jsonl",
        "en/train.jsonl",
        "pt/train.jsonl",
    ]
    a.write_text("{broken")
    with pytest.raises(DataError, match="line 1: not valid JSON"):
        data_fingerprints([a])
