"Nonsense for every flag of every command: an exit code and one line, never a traceback."

import json
import os
import shutil
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_rows import CALL, TOOLS, said
from typer.main import get_command
from typer.testing import CliRunner

import ftguide.models
from ftguide.cli import app
from ftguide.deployment import Gate, deploy
from ftguide.engine.generation import Answer
from ftguide.engine.loading import SHIPPED
from ftguide.engine.trainers import TrainingError
from ftguide.evaluation import Report
from ftguide.models import load
from ftguide.serving.errors import PageError
from ftguide.serving.votes import Feedback

COMMANDS = get_command(app).commands
FLAGS = [(name, p) for name, c in sorted(COMMANDS.items()) for p in c.params if p.name != "help"]
HUMAN = "\n\nHuman: Which?\n\nAssistant:"
ROWS_OF_OTHERS = [
    dict(system="Brief.", messages=said(("human", "Which?"), ("gpt", "Blue."))),
    dict(instruction="And?", input="", output="Two.", history=[["How large?", "Small."]]),
    dict(tools=TOOLS, messages=said(("user", "Which?"), ("assistant", "Blue."))),
    dict(messages=[*said(("user", "Which?")), dict(role="assistant", content=None, tool_calls=[CALL])]),
    dict(prompt=HUMAN, completion=" Blue.", chosen=HUMAN + " Blue.", rejected=HUMAN + " Red.", weight=0.5),
    dict(conversations=[{"from": "human", "value": [dict(text="Hi")]}, {"from": "gpt", "value": "Yes"}]),
    dict(prompt="Hi", completion="Yes", images=["a.png"]),
]
JUNK = [
    "",
    " ",
    "-1",
    "0",
    "1",
    "0.5",
    "2",
    "-0.0",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "1e-400",
    "1e9",
    "99999999999999999999999",
    "-9223372036854775809",
    "0x10",
    "1_000",
    "٣",
    "true",
    "None",
    "[]",
    "{}",
    "é",
    "漢字",
    "🙂",
    "a b",
    "a\tb",
    "a\nb",
    "'",
    '"',
    "%s",
    "{x}",
    "$HOME",
    "`id`",
    "*",
    "?",
    ".",
    "..",
    "-",
    "--",
    "--help",
    "-x",
    "a" * 5000,
    "tiny",
    "tiny-small",
    "no/such",
    "no/such/model",
    "./here",
    "rows.jsonl",
    "rows.jsonl,rows.jsonl",
    *(f"others-{i}.jsonl" for i in range(len(ROWS_OF_OTHERS))),
    "report.json",
    "shop",
    "votes.db",
    "\ud800",
    "\x01",
    "\u202e",
    "NUL",
    "CON",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Files that every command can begin with."
    there = tmp_path_factory.mktemp("fuzz")
    write = lambda name, rows: (there / name).write_text(
        "".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8"
    )
    write("rows.jsonl", [dict(prompt=f"Question {i}?", completion=f"Answer {i}") for i in range(20)])
    write(
        "pairs.jsonl",
        [dict(prompt=f"Question {i}?", chosen=f"Answer {i}", rejected="Nothing at all") for i in range(20)],
    )
    for i, row in enumerate(ROWS_OF_OTHERS):
        write(f"others-{i}.jsonl", [row] * 20)
    lm = load("tiny-small")
    report = Report("tiny-small", lm.parameters, rows={"exact match": [(1, 1)] * 20}, test="0")
    report.save(there / "report.json")
    for _ in range(2):
        deploy(lm, there / "shop", report, Gate(quality=0))
    store = Feedback(there / "votes.db")
    for i in range(4):
        store.choose(f"Question {i}?", "a", "b", "v1", "v1", "a", rater="r")
    store.close()
    return there


BASE = dict(
    run=["--sft", "rows.jsonl", "--base", "tiny-small", "--out", "out"],
    sft=["--data", "rows.jsonl", "--base", "tiny-small", "--out", "out"],
    dpo=["--data", "pairs.jsonl", "--base", "tiny-small", "--out", "out"],
    distill=["--data", "rows.jsonl", "--teacher", "tiny-small", "--out", "out"],
    decide=["--score", "0.8", "--labelled", "2000"],
    estimate=["--model", "tiny"],
    check=["rows.jsonl"],
    evaluate=["--model", "tiny-small", "--data", "rows.jsonl"],
    get=["smollm2-135m"],
    reply=["Hi", "--model", "tiny-small", "--max-new-tokens", "2"],
    serve=["tiny-small", "--store", "store.db"],
    votes=["votes.db"],
    deploy=["tiny-small", "--folder", "shop", "--report", "report.json"],
    versions=["shop"],
    rollback=["shop"],
    improve=["shop", "--store", "votes.db", "--data", "rows.jsonl", "--min-pairs", "2"],
)


@pytest.fixture(scope="module", autouse=True)
def quick(folder):
    "All that takes time is left out: what begins it has passed every check."

    def stop(*a, **k):
        raise TrainingError("step 1: stopped by the test")

    def page(*a, **k):
        raise PageError("stopped by the test")

    def score(report, rows, *a, **k):
        report.rows = {"exact match": [(1, 1)] * len(rows)}

    evaluate = sys.modules["ftguide.evaluation"]
    kept = {name: load(name) for name in SHIPPED}
    real = ftguide.models.load
    with pytest.MonkeyPatch.context() as m:
        m.chdir(folder)
        m.setenv("FTGUIDE_PASSWORD", "")
        m.setattr("ftguide.engine.run.Run.train", stop)
        m.setattr("ftguide.serving.page.page", page)
        m.setattr("ftguide.engine.pretrained.fetch", stop)
        m.setattr(evaluate, "replies", lambda lm, prompts, *a, **k: [Answer("", False)] * len(prompts))
        m.setattr(evaluate, "_score_answers", score)
        m.setattr(evaluate, "_score_references", lambda *a: None)
        m.setattr("ftguide.report.run_folder.write_page", lambda f: f)
        m.setattr(
            evaluate,
            "latency",
            lambda *a, **k: dict(
                latency_p50_ms=1.0, latency_p95_ms=1.0, tokens_per_second=100.0, new_tokens=1, batch_size=1
            ),
        )
        for place in ("models", "journey", "report.run_folder"):
            m.setattr(
                f"ftguide.{place}.load",
                lambda name, *a: kept[name] if isinstance(name, str) and name in kept else real(name, *a),
            )
        yield


def nonsense():
    return (
        st.sampled_from(JUNK)
        | st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), max_size=12)
        | st.integers().map(str)
        | st.floats().map(str)
    )


def run(*args):
    shutil.rmtree("out", ignore_errors=True)
    done = CliRunner().invoke(app, list(args))
    assert done.exception is None or isinstance(done.exception, SystemExit), f"{args}: {done.exception!r}"
    assert done.exit_code in (0, 1, 2) and "Traceback" not in done.output, (args, done.output)
    said = done.output.strip().splitlines()
    if done.exit_code == 2 and args:
        assert said[-1].startswith(("error: ", "Error: ")) and len(said) <= 5, (args, done.output)
    if done.exit_code == 1 and args[0] not in ("check", "improve"):
        assert said[-1].startswith("error: ") and len(said) < 12, (args, done.output)
    return done


@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_begin(name):
    assert name in BASE, "a command without an example here"
    done = run(name, *BASE[name])
    assert done.exit_code != 2 or "stopped by the test" in done.output, done.output


@settings(max_examples=int(os.environ.get("FTGUIDE_FUZZ", 150)))
@given(st.sampled_from(FLAGS), nonsense())
def test_any_flag_takes_any_nonsense(flag, value):
    name, param = flag
    if param.param_type_name == "argument":
        run(name, value, *BASE[name][1:])
    elif param.is_flag:
        run(name, *BASE[name], f"{param.opts[0]}={value}")
    else:
        run(name, *BASE[name], param.opts[0], value)


BROKEN = [
    "",
    "{}",
    "[]",
    "NaN",
    "[" * 100_000,
    '{"name": "m", "parameters": 1e999}',
    '{"name": "m", "parameters": 327072, "rows": {"exact match": [[Infinity, 1]]}}',
    '{"name": "m", "parameters": 327072, "rows": {"exact match": [[1]]}}',
    '{"name": "m", "parameters": 327072, "rows": {"exact match": []}}',
    '{"name": "m", "parameters": 327072, "speed": {"tokens_per_second": "fast"}}',
    '{"name": "m", "parameters": 327072, "answers": [1]}',
    '{"replaces": 5, "deployed": {}}',
    '{"replaces": "../../etc"}',
    "\x00\x01",
]


@pytest.mark.parametrize("content", BROKEN)
def test_broken_files_beside_good_weights(folder, content):
    "A report, a version's record, the loop's memory and a store of votes that hold anything."
    (folder / "broken.json").write_text(content)
    assert run("deploy", "tiny-small", "--folder", "shop", "--report", "broken.json").exit_code == 2
    for name in ("report.json", "deployment.json"):
        shutil.rmtree("broken-shop", ignore_errors=True)
        shutil.copytree("shop", "broken-shop", symlinks=True)
        (folder / "broken-shop/v2" / name).write_text(content)
        run("versions", "broken-shop")
        run("rollback", "broken-shop")
    (folder / "broken-shop/improve.json").write_text(content)
    run("improve", "broken-shop", *BASE["improve"][1:])
    (folder / "broken.db").write_text(content or " ")
    assert run("votes", "broken.db").exit_code == 2


@settings(max_examples=60)
@given(
    st.lists(nonsense() | st.sampled_from([*COMMANDS, *{o for _, p in FLAGS for o in p.opts}]), max_size=5)
)
def test_any_line_of_nonsense(words):
    run(*words)
