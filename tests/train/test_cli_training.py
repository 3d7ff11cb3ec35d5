"Trainings begun by a command: the whole journey on somebody's files, and Ctrl-C in it."

import json
import os
import signal
import sys
import time

import pytest
from killed import child, command
from stages import FEW, let_answers_end
from typer.testing import CliRunner

from ftguide.cli import app
from ftguide.models import load, reply


def test_own_data_through_the_command(tmp_path, monkeypatch):
    "Another domain, Portuguese, 60 rows: models, report.json and report.html."
    let_answers_end(monkeypatch)
    for name, rows in (
        (
            "sft",
            [
                dict(
                    prompt=f"Resuma: o ônibus {i} sai às {i % 24} horas.",
                    completion=f"Ônibus {i}: {i % 24} h",
                )
                for i in range(60)
            ],
        ),
        (
            "pairs",
            [
                dict(
                    prompt=f"Resuma: o ônibus {i} sai às {i % 24} horas.",
                    chosen=f"Ônibus {i}: {i % 24} h",
                    rejected="Não sei.",
                )
                for i in range(60)
            ],
        ),
        ("prompts", [dict(prompt=f"Resuma: o trem {i} chega às {i % 24} horas.") for i in range(60)]),
    ):
        (tmp_path / f"{name}.jsonl").write_text(
            "\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8"
        )
    out = tmp_path / "mine"
    command = [
        "run",
        "--sft",
        tmp_path / "sft.jsonl",
        "--pairs",
        tmp_path / "pairs.jsonl",
        "--corpus",
        tmp_path / "prompts.jsonl",
        "--base",
        "tiny-small",
        "--student",
        "tiny-small",
        "--epochs",
        "1",
        "--distill-epochs",
        "1",
        "--out",
        out,
    ]
    done = CliRunner().invoke(app, [str(word) for word in command])
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in out.iterdir()) == ["dpo", "report.html", "report.json", "sft", "student"]
    for folder in ("sft", "dpo", "student"):
        names = {p.name for p in (out / folder).iterdir()}
        assert {
            "model.safetensors",
            "tokenizer.json",
            "generation_config.json",
            "chat_template.jinja",
            "README.md",
        } <= names
        assert "95 % interval" in (out / folder / "README.md").read_text(encoding="utf-8")
        assert isinstance(reply(load(out / folder), "Resuma: o trem 3 chega às 4 horas."), str)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert [s["name"] for s in report["stages"]] == ["base", "SFT", "DPO", "distilled"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert (
        "Before and after each stage" in page and "<svg" in page and "http://" not in page.split("<body")[0]
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupt_keeps_finished_stages(tmp_path):
    out = tmp_path / "mine"
    rows = tmp_path / "sft.jsonl"
    rows.write_text("\n".join(json.dumps(r) for r in FEW), encoding="utf-8")
    prompts = tmp_path / "p.jsonl"
    prompts.write_text(
        "\n".join(json.dumps(dict(prompt=f"{r['prompt']} {i}")) for i in range(40) for r in FEW),
        encoding="utf-8",
    )
    words = f"run --base tiny-small --sft {rows} --corpus {prompts} --out {out} --epochs 1".split()
    run, deadline = child(command, words, tmp_path / "log"), time.time() + 120
    while not (out / "sft/README.md").exists() and run.is_alive() and time.time() < deadline:
        time.sleep(0.1)
    os.kill(run.pid, signal.SIGINT)
    run.join(60)
    said = (tmp_path / "log").read_text(encoding="utf-8")
    assert run.exitcode == 130 and "finished stages are kept" in said and "Traceback" not in said, said
    assert isinstance(reply(load(out / "sft"), "Hi"), str) and not (out / "student").exists()


def test_a_folder_beside_the_model_is_not_swept_away(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps(dict(prompt=f"Q{i}", completion="A")) + "\n" for i in range(16)), encoding="utf-8"
    )
    beside = tmp_path / "m.checkpoints"
    beside.mkdir()
    (beside / "notes.txt").write_text("mine")
    train = lambda: CliRunner().invoke(
        app,
        ["sft", "--base", "tiny-small", "--data", str(rows), "--out", str(tmp_path / "m"), "--epochs", "1"],
    )
    done = train()
    assert (
        done.exit_code == 2
        and "m.checkpoints holds notes.txt, which no training wrote" in done.output
        and (beside / "notes.txt").read_text() == "mine"
    )
    (beside / "notes.txt").unlink()
    done = train()
    assert done.exit_code == 0 and (tmp_path / "m").is_dir() and not beside.exists(), done.output


def test_dpo_sweeps_its_own_files_and_goes_on_with_them(tmp_path):
    "Beside the checkpoints lie the reference's log-probabilities."
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(
        "".join(json.dumps(dict(prompt=f"Q{i}", chosen="good", rejected="evil")) + "\n" for i in range(16)),
        encoding="utf-8",
    )
    train = lambda *more: CliRunner().invoke(
        app,
        [
            "dpo",
            "--base",
            "tiny-small",
            "--data",
            str(pairs),
            "--out",
            str(tmp_path / "m"),
            "--epochs",
            "1",
            *more,
        ],
    )
    with pytest.MonkeyPatch.context() as m:  # stopped before the model is saved
        m.setattr("ftguide.models.save", lambda *a, **k: 1 / 0)
        done = train()
    assert isinstance(done.exception, ZeroDivisionError) and list(
        (tmp_path / "m.checkpoints").glob("reference-*.json")
    )
    done = train("--resume")
    assert done.exit_code == 0 and (tmp_path / "m").is_dir() and not (tmp_path / "m.checkpoints").exists(), (
        done.output
    )
