"""Where people stumble in their first ten minutes.

Files from a spreadsheet, misspelt words, a hub that is not there, a cell that is interrupted.
"""

import csv
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_hostile import cli
from typer.main import get_command

from ftguide.cli import app, main
from ftguide.data import check
from ftguide.engine.formats import DataError
from ftguide.engine.rows import read

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    dict(prompt="Qual é o preço do café?", completion="O café custa 12,50 reais."),
    dict(prompt="O que é um “índice”?", completion='Uma lista; serve para achar.\nDuas linhas, ou "mais".'),
]


def table(separator: str, names=("prompt", "completion"), end="\r\n") -> str:
    f = io.StringIO(newline="")
    w = csv.writer(f, delimiter=separator, lineterminator=end)
    w.writerow(names)
    w.writerows(r.values() for r in ROWS)
    return f.getvalue()


SHEETS = {
    "semicolons and a byte order mark": table(";").encode("utf-8-sig"),
    "commas": table(",").encode(),
    "tabs": table("\t").encode(),
    "bars": table("|").encode(),
    "UTF-16 with tabs, as Excel's Unicode text": table("\t").encode("utf-16"),
    "old Mac line ends": table(";", end="\r").encode(),
    "a line that names the separator": b"sep=;\r\n" + table(";").encode(),
    "capitals and spaces in the header": table(";", (" Prompt", "COMPLETION ")).encode("utf-8-sig"),
    "empty rows at the end": (table(";") + ";\r\n;\r\n\r\n").encode(),
    "empty columns on the right": "".join(
        f"{line};;\r\n" for line in ("prompt;completion", f"{ROWS[0]['prompt']};{ROWS[0]['completion']}")
    ).encode(),
}


@pytest.mark.parametrize("name", SHEETS)
def test_a_table_from_a_spreadsheet(tmp_path, name):
    file = tmp_path / "rows.csv"
    file.write_bytes(SHEETS[name])
    assert read(file) == (ROWS[:1] if "columns" in name else ROWS)


def test_a_table_named_tsv(tmp_path):
    (tmp_path / "rows.tsv").write_bytes(SHEETS["tabs"])
    assert read(tmp_path / "rows.tsv") == ROWS


@pytest.mark.parametrize(
    "name, data, says",
    [
        ("a.xlsx", b"PK\x03\x04", "'.xlsx'; .*in a spreadsheet choose Save as, CSV UTF-8"),
        ("a.csv", b"PK\x03\x04" + b"\0" * 40, "not text but a spreadsheet"),
        (
            "a.csv",
            table(";").replace("“", "").replace("”", "").encode("latin-1"),
            r"not UTF-8 text \(byte 2\d\); save it as UTF-8 \(in a spreadsheet",
        ),
        ("a.txt", table("\t").encode(), "a table is named .csv"),
        ("a.jsonl.gz", b"\x1f\x8b", "unpack it first"),
        ("a.csv", b'prompt;completion\r\n"Which?;This.\r\nHow?;So.\r\n', "row 1: the quotes do not match"),
        ("a.csv", b'prompt;completion\r\n"Which" one?;This.\r\n', "row 1: the quotes do not match"),
        ("a.csv", b"prompt,completion\r\nHow much?,12,50\r\n", "row 1: more fields than the header"),
        (
            "a.csv",
            b"prompt,completion,\r\nHow much?,12,50\r\n",
            "row 1: more fields than the header.*name every column",
        ),
        ("a.jsonl", b'[\n{"prompt": "a", "completion": "b"}\n]\n', "one list is named .json"),
        (
            "a.json",
            b'{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n',
            "one object a line it is named .jsonl",
        ),
    ],
)
def test_a_file_that_is_something_else(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=says) as e:
        read(tmp_path / name)
    assert "\n" not in str(e.value)


def test_one_row_with_wrong_quotes_does_not_hide_the_others(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(
        b'prompt;completion\r\n"Which" one?;This.\r\n'
        + b"".join(b"What is number %d?;It is the number %d.\r\n" % (i, i) for i in range(9))
    )
    found = check(file)
    assert found.n == 10 and found["unusable rows"].rows == [0]


# ---- the command


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
        HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path), PYTHONPATH=str(ROOT)
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


# ---- a kernel

TRAIN = """from ftguide import finetune_sft, load_tasks
from transformers import TrainerCallback
class Say(TrainerCallback):
    def on_step_end(self, *a, **k): print("a step", flush=True)
finetune_sft("tiny-small", load_tasks("train", 16), epochs=1000, callbacks=(Say(),))"""


def test_an_interrupted_cell_leaves_the_kernel_usable():
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(
        kernel_name="python3", startup_timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )

    def said(number, until):
        "The messages of one cell up to the one wanted."
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            m = client.get_iopub_msg(timeout=120)
            if m["parent_header"].get("msg_id") == number and until(m):
                return m
        raise TimeoutError("the kernel said nothing in two minutes")

    try:
        first = client.execute(TRAIN)
        said(first, lambda m: "a step" in m["content"].get("text", ""))
        manager.interrupt_kernel()
        pressed = [time.monotonic()]  # in the middle of the training, not of the imports

        def ended(m):  # pressed again where Python lost the first one, inside a destructor
            if "a step" in m["content"].get("text", "") and time.monotonic() - pressed[0] > 5:
                manager.interrupt_kernel()
                pressed[0] = time.monotonic()
            return m["msg_type"] == "error"

        assert said(first, ended)["content"]["ename"] == "KeyboardInterrupt"
        said(first, lambda m: m["content"].get("execution_state") == "idle")
        second = client.execute("finetune_sft('tiny-small', load_tasks('train', 8), epochs=1).name")
        assert (
            said(second, lambda m: m["msg_type"] in ("execute_result", "error"))["content"]["data"][
                "text/plain"
            ]
            == "'SFT'"
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
