"The commands: bad input is one clear error before any training, exit code 2, nothing overwritten."

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import cli
from stages import family
from typer.main import get_command
from typer.testing import CliRunner

import ftguide
from ftguide.cli import app, main, name_or_number, say_warning, with_student
from ftguide.engine.formats import DataError
from ftguide.engine.generation import CutAnswers
from ftguide.engine.rows import read
from ftguide.models import save

GOOD = {"prompt": "Hi", "completion": "Hello"}
PAIR = {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"}


def write(path: Path, *rows) -> str:
    path.write_text(
        "\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n", encoding="utf-8"
    )
    return str(path)


def fails(*args, code=2):
    done = CliRunner().invoke(app, [str(a) for a in args])
    assert done.exit_code == code, done.output
    assert done.output.count("\n") <= 2 and "Traceback" not in done.output, done.output
    return done.output


@pytest.mark.parametrize(
    "rows, says",
    [
        (["{not json"], "line 1: not valid JSON"),
        ([GOOD, '{"prompt": "a"'], "line 2: not valid JSON"),
        (
            [{"promt": "Hi", "completion": "Hello"}],
            "columns found: promt, completion; expected: prompt, completion or messages",
        ),
        ([GOOD, {"prompt": "Hi"}], "line 2: columns found: prompt"),
        ([GOOD, {"prompt": "Hi", "completion": ""}], "line 2: column 'completion' is empty"),
        ([GOOD, {"prompt": None, "completion": "x"}], "line 2: column 'prompt' is empty"),
        ([GOOD, {"prompt": 3, "completion": "x"}], "must be text"),
        ([GOOD, "[1, 2]"], "expected an object"),
        ([], "no rows"),
        ([{"prompt": "very " * 600, "completion": "long"}], "1 of 1 rows do not fit"),
    ],
)
def test_sft_file(tmp_path, rows, says):
    out = fails("sft", "--data", write(tmp_path / "bad.jsonl", *rows), "--out", tmp_path / "out")
    assert says in out and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "rows, says",
    [
        ([{"prompt": "Hi", "choosen": "a", "rejected": "b"}], "expected: prompt, chosen, rejected"),
        ([PAIR, {**PAIR, "rejected": "Hello"}], "line 2: chosen and rejected are the same"),
    ],
)
def test_pairs_file(tmp_path, rows, says):
    assert says in fails("dpo", "--data", write(tmp_path / "bad.jsonl", *rows), "--out", tmp_path / "out")


def test_the_student_that_fits_a_teacher(tmp_path, capsys):
    lm, student = with_student("tiny", None)
    assert (lm.name, student.name) == ("tiny", "tiny-small") and capsys.readouterr().out == ""
    lm, student = with_student("tiny", 2)
    assert student.model.config.num_hidden_layers == 2
    assert "2 of the teacher's 6 layers" in capsys.readouterr().out
    other = save(family("llama", own=True), tmp_path / "other")
    lm, student = with_student(str(other), None)
    assert student.model.config.num_hidden_layers == 1 and lm.model.config.num_hidden_layers == 2
    command = ["distill", "--teacher", "tiny", "--data", write(tmp_path / "r.jsonl", GOOD)]
    command += ["--out", tmp_path / "out", "--student-layers"]
    assert "not both" in fails(*command, "2", "--student", "tiny-small")
    assert "layers must be" in fails(*command, "0")


def test_missing_unreadable_and_unknown(tmp_path):
    assert "no file" in fails("sft", "--data", tmp_path / "none.jsonl", "--out", tmp_path / "out")
    (tmp_path / "a.txt").write_text("x")
    assert "unknown format" in fails("sft", "--data", tmp_path / "a.txt", "--out", tmp_path / "out")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in fails("sft", "--data", tmp_path / "b.jsonl", "--out", tmp_path / "out")
    (tmp_path / "c.parquet").write_bytes(b"nothing")
    assert "cannot be read as parquet" in fails(
        "sft", "--data", tmp_path / "c.parquet", "--out", tmp_path / "out"
    )
    assert "is a folder; give a file" in fails("sft", "--data", tmp_path, "--out", tmp_path / "out")


def test_unknown_model_offline(tmp_path):
    data = write(tmp_path / "d.jsonl", GOOD)
    assert "cannot load 'no/such-model'" in fails(
        "sft", "--base", "no/such-model", "--data", data, "--out", tmp_path / "out"
    )
    assert "no folder" in fails("reply", "--model", "./nothing", "Hi")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in fails("reply", "--model", tmp_path / "empty", "Hi")


def test_numbers_out_of_range(tmp_path):
    rows, pairs = (
        write(tmp_path / "r.jsonl", *[{"prompt": f"Q{i}", "completion": "A"} for i in range(20)]),
        write(tmp_path / "p.jsonl", PAIR),
    )
    assert "beta must be above 0" in fails(
        "dpo", "--data", pairs, "--beta", "-0.1", "--out", tmp_path / "out"
    )
    assert "alpha must lie between 0 and 1" in fails(
        "distill", "--teacher", "tiny", "--data", rows, "--alpha", "1.5", "--out", tmp_path / "out"
    )
    assert "temperature must be above 0" in fails(
        "distill", "--teacher", "tiny", "--data", rows, "--temperature", "0", "--out", tmp_path / "out"
    )
    assert "epochs must be above 0" in fails(
        "sft", "--data", rows, "--epochs", "0", "--out", tmp_path / "out"
    )
    for flag, value in (("--beta", "-1"), ("--alpha", "2"), ("--temperature", "0"), ("--epochs", "-1")):
        assert "must be" in fails("run", "--sft", rows, flag, value, "--out", tmp_path / "out")
    assert "lang must be" in fails("run", "--lang", "fr", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path):
    data = write(tmp_path / "d.jsonl", GOOD)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    for command in (
        ["sft", "--data", data],
        ["dpo", "--data", data],
        ["distill", "--teacher", "tiny", "--data", data],
        ["run"],
    ):
        assert "exists and is not empty" in fails(*command, "--out", taken)
    assert [p.name for p in taken.iterdir()] == ["mine.txt"]


def test_too_few_rows_to_set_some_aside(tmp_path):
    assert "too few" in fails("run", "--sft", write(tmp_path / "d.jsonl", GOOD), "--out", tmp_path / "out")


def test_usage_errors():
    assert CliRunner().invoke(app, ["run", "--bata", "1"]).exit_code == 2
    for command in ("run", "sft", "dpo", "distill", "evaluate", "reply"):
        shown = CliRunner().invoke(app, [command, "--help"])
        assert shown.exit_code == 0 and "Example:" in shown.output


def test_every_format_reads_the_same(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"prompt": 'Olá, "mundo";\ntudo bem?', "completion": "Sim, ção 漢字 🙂"}, GOOD]
    write(tmp_path / "a.jsonl", *rows)
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")

    for name, sep, bom in (("a.csv", ",", ""), ("b.csv", ";", "\ufeff"), ("c.csv", "\t", "")):
        with open(tmp_path / name, "w", encoding="utf-8", newline="") as f:
            f.write(bom)
            w = csv.DictWriter(f, ["prompt", "completion"], delimiter=sep)
            w.writeheader()
            w.writerows(rows)
    from datasets import Dataset

    for source in [*tmp_path.iterdir(), rows, Dataset.from_list(rows)]:
        assert read(source) == rows, source


def test_folder_and_dict_are_no_data(tmp_path):
    with pytest.raises(DataError):
        read({"prompt": "a", "completion": "b"})
    with pytest.raises(DataError):
        read(tmp_path)


@pytest.mark.parametrize(
    "args, says",
    [
        (("decide", "--score", "87", "--labelled", "10"), "between 0 and 1"),
        (("decide", "--score", "0.8", "--low", "0.7", "--labelled", "10"), "belong together"),
        (("estimate", "--method", "rlhf"), "rlhf"),
        (("estimate", "--device", "H1000"), "H1000"),
        (("estimate", "--model", "no-such-model"), "no-such-model"),
        (("estimate", "--batch-size", "-1"), "-1"),
        (("check", "none.jsonl"), "none.jsonl"),
    ],
)
def test_before_training(args, says):
    assert says in fails(*args)


def test_check_exits_with_1_on_errors(tmp_path):
    found = CliRunner().invoke(
        app,
        [
            "check",
            write(
                tmp_path / "a.jsonl",
                *[dict(GOOD, prompt=f"Say hello to number {i}", completion=f"Hello {i}") for i in range(9)],
                {"prompt": "Hi", "completion": ""},
            ),
        ],
    )
    assert found.exit_code == 1 and "line 10" in found.output, found.output


# ---- the commands themselves


@pytest.mark.parametrize("error", [KeyError("rows"), TypeError("no"), ZeroDivisionError()])
def test_a_mistake_of_the_program_is_not_shown_as_the_users(monkeypatch, error):
    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr("ftguide.decide.choose_technique", broken)
    done = CliRunner().invoke(app, ["decide", "--score", "0.8", "--labelled", "10"])
    assert done.exception is error


def test_every_flag_has_help():
    for name, command in get_command(app).commands.items():
        assert command.help and command.epilog.startswith("Example:  ftguide " + name)
        for parameter in command.params:
            said = parameter.help if parameter.name != "help" else "Show this."
            assert said and said[-1] in ".?!", (name, parameter.name)


def test_help_comes_from_the_function():
    from ftguide.engine.docments import docments

    said = docments("ftguide.sft", "finetune_sft")["epochs"]
    (epochs,) = [p for p in get_command(app).commands["sft"].params if p.name == "epochs"]
    assert epochs.help == said[0].upper() + said[1:] + "."


def test_help_names_flags_and_not_parameters():
    for command in get_command(app).commands.values():
        names = [p.name for p in command.params if "_" in p.name]
        said = " ".join(p.help for p in command.params if p.name != "help")
        assert not [name for name in names if name in said]
    said = {p.name: p.help for p in get_command(app).commands["decide"].params}
    assert "--latency-ms" in said["latency_target_ms"]


def test_the_command_line_loads_nothing_heavy():
    heavy = {"torch", "transformers", "trl", "datasets", "matplotlib", "gradio", "scipy"}
    code = f"import ftguide.cli, sys; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


@pytest.mark.parametrize(
    "args, says",
    [
        (["votes", "v.db", "--pairs", "x.jsonl", "--thumbs", "x.jsonl"], "x.jsonl is named twice"),
        (["check", "rows.jsonl", "--max-length", "5"], "--max-length counts tokens, so it needs --model"),
        (
            ["check", "rows.jsonl", "--model", "tiny-small", "--max-length", "0"],
            "--max-length must be 1 or more, not 0",
        ),
    ],
)
def test_flags_that_do_not_fit_together(tmp_path, monkeypatch, args, says):
    from ftguide.serving.votes import Feedback

    monkeypatch.chdir(tmp_path)
    Feedback("v.db")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Q", "completion": "A"}\n')
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 2 and says in done.output and not (tmp_path / "x.jsonl").exists(), done.output


def test_version_and_help():
    assert (
        cli("--version") == (0, f"ftguide {__import__('ftguide').__version__}")
        and cli("-h") == cli("--help")
        and cli("sft", "-h")[0] == 0
    )
    assert "..." not in cli("--help")[1].split("Commands:")[1], (
        "a command whose first sentence does not fit into its line"
    )


COMMAND = get_command(app)


MISSPELT = lambda word: {word[:-1], word + "s", word[0] + word[2:], word[1] + word[0] + word[2:]}


@pytest.mark.parametrize("command", COMMAND.commands)
def test_every_flag_misspelt(command):
    "A letter too few, too many, or two changed: one line names the flag that was meant, and nothing runs."
    params = [
        p for p in COMMAND.commands[command].params if p.param_type_name == "option" and p.name != "help"
    ]
    known = {o for p in params for o in [*p.opts, *p.secondary_opts]}
    for flag in (p.opts[0] for p in params):
        for wrong in ({f"--{w}" for w in MISSPELT(flag[2:])} if len(flag) > 4 else set()) - known:
            with pytest.raises(Exception, match="No such option") as e:
                COMMAND.main([command, wrong, "1"], standalone_mode=False)
            assert flag in e.value.format_message() and "\n" not in e.value.format_message(), wrong


def test_capitals_underscores_and_one_dash(monkeypatch, capsys):
    for flag in ("--max-length", "--MAX-LENGTH", "--max_length", "--Max_Length"):
        assert cli("check", "none.jsonl", "--model", "tiny-small", flag, "5") == (
            2,
            "error: no file none.jsonl",
        )
    monkeypatch.setattr(sys, "argv", ["ftguide", "sft", "-data", "none.jsonl"])
    with pytest.raises(SystemExit) as e:
        main()
    assert e.value.code == 2 and capsys.readouterr().err == "error: -data: options have two dashes, --data\n"
    monkeypatch.setattr(sys, "argv", ["ftguide", "reply", "--model", "none/at/all", "--", "-data"])
    with pytest.raises(SystemExit):
        main()
    assert "no folder 'none/at/all'" in capsys.readouterr().err  # a question may begin with a dash


def test_a_folder_that_is_not_there_is_said_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Hi", "completion": "Hello"}\n')
    began = lambda *a, **k: pytest.fail("the work has begun")
    monkeypatch.setattr(sys.modules["ftguide.evaluation"], "evaluate", began)
    assert cli(
        "evaluate",
        "--model",
        "tiny",
        "--data",
        tmp_path / "rows.jsonl",
        "--out",
        tmp_path / "none/report.json",
    ) == (2, f"error: no folder {tmp_path / 'none'} for report.json; make it first")


def test_what_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "ftguide.serving.page", raising=False)  # another test may have loaded it
    assert cli("serve", "tiny-small", "--store", tmp_path / "votes.db") == (
        2,
        "error: the page needs gradio: pip install 'ftguide[serve]'",
    )


def test_a_hub_that_is_not_there(tmp_path):
    "One line on the screen, and not two for each of the library's six tries."
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | dict(
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME=str(tmp_path),
        PYTHONPATH=str(Path(__file__).resolve().parents[2]),
    )
    done = subprocess.run(
        [sys.executable, "-m", "ftguide", "reply", "--model", "some/model", "Hi"],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and not done.stdout, done.stderr
    assert (
        done.stderr.startswith(
            "error: cannot load 'some/model': the hub cannot be reached, and it is not in the local cache"
        )
        and done.stderr.count("\n") == 1
    ), done.stderr


def test_a_check_that_takes_too_long(monkeypatch, tmp_path):
    def stop(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr("ftguide.data.check", stop)
    assert cli("check", tmp_path / "rows.jsonl") == (
        130,
        "stopped; the first part of the file, checked alone, answers sooner",
    )


def test_a_divergence_is_a_name_or_a_number():
    assert [name_or_number(text) for text in (None, "jsd", "0.5", "1")] == [None, "jsd", 0.5, 1.0]


@pytest.mark.parametrize("category", [UserWarning, CutAnswers])
def test_a_warning_of_this_package_is_one_line(category, capsys):
    show = say_warning(lambda *as_python_does: pytest.fail("in Python's form"))
    show(category("two\nlines"), category, ftguide.__file__, 1)
    assert capsys.readouterr().err == "warning: two lines\n"
