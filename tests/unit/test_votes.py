"The store of votes: processes, crashes, damage, old and new files, privacy."

import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ftguide.cli import app
from ftguide.engine.rows import read
from ftguide.feedback import pairs_from, thumbs_from
from ftguide.serving import backups, votes
from ftguide.serving.backups import BackupFolder
from ftguide.serving.errors import FeedbackError
from ftguide.serving.schema import MIGRATIONS
from ftguide.serving.votes import Feedback, restore

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and resource limits")
SLOW_DISK = (
    Path("/dev/shm") if Path("/dev/shm").is_dir() and os.access("/dev/shm", os.W_OK) else None
)  # a vote waits for the disk; ten thousand need not


@pytest.fixture
def store(tmp_path):
    return Feedback(tmp_path / "votes.db")


def python(code, *args):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=120
    )


# ---- many writers, crashes


def writer(path, start, who, n):
    start.wait()
    store = Feedback(path)
    for i in range(n):
        store.vote(f"q{i}", "a", "v1", True, f"r{who}", key=f"{who}-{i}")


def written(path, n, processes=8):
    context = multiprocessing.get_context("fork")
    start = context.Event()
    workers = [context.Process(target=writer, args=(path, start, k, n)) for k in range(processes)]
    for w in workers:
        w.start()
    start.set()
    for w in workers:
        w.join(150)
    assert [w.exitcode for w in workers] == [0] * processes
    return Feedback(path)


def test_eight_processes_lose_none_of_ten_thousand_votes(tmp_path_factory):
    folder = Path(tempfile.mkdtemp(dir=SLOW_DISK))
    try:
        rows = written(folder / "votes.db", 1250).rows()
        assert len(rows) == 10_000 and len({r["key"] for r in rows}) == 10_000
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("n", range(5))
def test_eight_processes_make_one_new_file(tmp_path, n):
    assert written(tmp_path / "votes.db", 2).numbers()["votes"] == 16


def test_threads_and_a_fork_share_a_store(store):
    def work(k):
        [store.vote("q", f"a{k}", "v1", True) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    child = multiprocessing.get_context("fork").Process(target=work, args=("child",))
    child.start()
    for t in threads:
        t.join()
    child.join(60)
    assert child.exitcode == 0 and store.numbers()["votes"] == 140


def test_a_key_counts_once(tmp_path):
    path = tmp_path / "votes.db"
    Feedback(path)
    now = threading.Event()
    now.set()
    for _ in range(2):
        writer(path, now, 0, 10)
    assert Feedback(path).numbers()["votes"] == 10


def test_an_empty_key_is_no_key(store):
    assert store.vote("q", "a", "v1", True, "ana", key="") != store.vote(
        "q", "a", "v1", True, "bo", key=""
    ) and [r["key"] for r in store.rows()] == [None, None]


@pytest.mark.parametrize(
    "other, says",
    [
        (lambda s: s.vote("q", "a", "v1", False, "ana", key="k"), "up"),
        (lambda s: s.vote("q2", "b", "v1", True, "ana", key="k"), "prompt, answer"),
        (lambda s: s.vote("q", "a", "v1", True, "bo", "note", key="k"), "rater, note"),
        (
            lambda s: s.choose("q", "a", "b", "v1", "v2", "a", "ana", key="k"),
            "kind, a, b, version_a, version_b, chosen",
        ),
    ],
)
def test_a_key_that_comes_with_another_click(store, other, says):
    first = store.vote("q", "a", "v1", True, "ana", key="k")
    with pytest.raises(
        FeedbackError,
        match=f"key 'k' is that of row {first}, which has another {says}; a key stands for one click",
    ):
        other(store)
    assert store.vote("q", "a", "v1", True, "ana", key="k") == first and [r["up"] for r in store.rows()] == [
        True
    ]


def test_a_click_whose_row_was_forgotten_at_that_moment_is_kept(store, monkeypatch):
    store.vote("q", "a", "v1", True, "ana", key="k")
    real = Feedback._execute

    def forgotten(self, sql, values=()):
        if "WHERE key" in sql:
            monkeypatch.undo()
            self.forget("ana")
        return real(self, sql, values)

    monkeypatch.setattr(Feedback, "_execute", forgotten)
    assert (
        store.vote("q", "a", "v1", True, "ana", key="k") == store.rows()[0]["id"] and len(store.rows()) == 1
    )


CHILD = """import sys; from ftguide.serving.votes import Feedback
store, n = Feedback(sys.argv[1]), 0
while True:
    store.vote("q" * 500, "a" * 3000, "v1", True); n += 1; print(n, flush=True)"""


def killed(child) -> int:
    "The last number it said, or 0; communicate(timeout=…) would pass over what readline() has buffered."
    child.kill()
    with child:
        return max([int(x) for x in child.stdout.read().split()] or [0])


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_any_moment(tmp_path, seed):
    rng, path = random.Random(seed), tmp_path / "votes.db"
    for _ in range(2):
        before = Feedback(path).numbers()["votes"]
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
        for _ in range(rng.randrange(1, 60)):
            said = int(child.stdout.readline())
        threading.Event().wait(rng.random() / 100)
        said = max(said, killed(child))
        kept = Feedback(path).numbers()["votes"] - before
        assert said <= kept, (said, kept)
    assert all(len(r["answer"]) == 3000 for r in Feedback(path).rows())


def test_confirmed_votes_and_at_most_one_more(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "v.db")], stdout=subprocess.PIPE, text=True
    )
    for n in range(30):
        assert child.stdout.readline().strip() == str(n + 1)
    said = max(30, killed(child))
    assert said <= Feedback(tmp_path / "v.db").numbers()["votes"] <= said + 1


# ---- full disks, damage, versions


def test_a_full_disk_is_one_line_and_loses_nothing(store):
    for i in range(20):
        store.vote(f"q{i}", "a" * 1000, "v1", True)
    pages = store._execute("PRAGMA page_count")[0][0]
    store._execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(FeedbackError, match="no room on the disk") as e:
        for _ in range(50):
            store.vote("q", "a" * 3000, "v1", True)
    assert "\n" not in str(e.value)
    kept = store.numbers()["votes"]
    store._execute("PRAGMA max_page_count = 1000000")
    store.vote("q", "a", "v1", True)
    assert store.numbers()["votes"] == kept + 1 >= 21


def test_a_file_that_may_not_grow(tmp_path):
    code = """import resource, sys; from ftguide.serving.votes import Feedback, FeedbackError
s = Feedback(sys.argv[1]); s.vote("q", "a", "v1", True)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
n = 1
try:
    while True: s.vote("q", "a" * 5000, "v1", True); n += 1
except FeedbackError as e: print(n, e)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 100_000))
try: s.backup()
except FeedbackError as e: print(e)"""
    done = python(code, tmp_path / "v.db")
    n, said = done.stdout.split(" ", 1)
    assert done.returncode == 0 and "no room on the disk" in said and said.count("\n") == 2, done.stderr
    vote, backup = said.splitlines()
    assert (
        vote.endswith("This entry is not kept, all before it are; free some space and send it again")
        and backup.startswith(f"{tmp_path / 'v.db'}: no room")
        and backup.endswith("No backup is made, the store is as it was; free some space and try again")
    )
    assert not list((tmp_path / "v.db.backups").iterdir())
    assert Feedback(tmp_path / "v.db").numbers()["votes"] == int(n)


@pytest.mark.parametrize("harm", ["header", "page", "cut", "text"])
def test_damage_is_reported_and_the_backup_offered(store, harm):
    for i in range(200):
        store.vote(f"q{i}", "a" * 100, "v1", True)
    store._execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    good = store.path.read_bytes()

    def spoil():
        bad = dict(
            header=b"\xff" * 100 + good[100:],
            page=good[:4096] + b"\xff\x00" * 2048 + good[8192:],
            cut=good[: len(good) // 2 + 99],
            text=b"dear diary\n" * 500,
        )[harm]
        store.path.write_bytes(bad)

    spoil()
    with pytest.raises(
        FeedbackError,
        match=r"damaged, or not a store of feedback .*no backup beside it; `backup\(\)` makes one",
    ):
        Feedback(store.path)
    store.path.write_bytes(good)
    copy = store.backup()
    store.close()
    spoil()
    with pytest.raises(FeedbackError, match=f"The newest backup is {copy}; `restore"):
        Feedback(store.path)
    with pytest.raises(
        FeedbackError,
        match=f"^{store.path}: damaged, or not a store of feedback .*The newest backup is {copy}; `restore",
    ):
        store.backup()
    assert list(copy.parent.iterdir()) == [copy]
    assert restore(store.path).numbers()["votes"] == 200


def test_restore_takes_the_newest_backup_that_is_whole(store):
    store.vote("q", "a", "v1", True)
    store.backup()
    store.vote("q", "b", "v1", True)
    newest = store.backup()
    store.close()
    newest.write_bytes(b"no")
    store.path.write_bytes(b"no")
    assert restore(store.path).numbers()["votes"] == 1
    for old in newest.parent.iterdir():
        old.write_bytes(b"no")
    with pytest.raises(FeedbackError, match="no backup beside it can be read; nothing was changed"):
        restore(store.path)


def test_backups_are_kept_few_and_hold_what_was_there(store):
    for n in range(8):
        store.vote("q", f"a{n}", "v1", True)
        last = store.backup(keep=3)
    there = sorted(last.parent.iterdir())
    assert len(there) == 3 and there[-1] == last and Feedback(last).numbers()["votes"] == 8


def backing_up(path, told, go):
    "A backup that is whole and not yet renamed: it waits there, or is killed."
    real = os.replace

    def replace(*a):
        told.set()
        if go is None:
            os.kill(os.getpid(), signal.SIGKILL)
        go.wait(60)
        real(*a)

    os.replace = replace
    Feedback(path).backup()


def beginning(store, go=None):
    context = multiprocessing.get_context("fork")
    told, go = context.Event(), go and context.Event()
    child = context.Process(target=backing_up, args=(store.path, told, go))
    child.start()
    assert told.wait(60)
    return child, go


@pytest.mark.parametrize("then", [lambda s: s.backup(), lambda s: s.forget("Ana Souza")])
def test_what_a_killed_backup_left_is_deleted(store, then):
    store.vote("q", "a", "v1", True, "Ana Souza")
    store.vote("q", "a", "v1", True, "bo")
    whole = store.backup()
    child, _ = beginning(store)
    child.join(60)
    half = [p for p in whole.parent.iterdir() if p != whole]
    assert child.exitcode == -signal.SIGKILL and len(half) == 1 and b"Ana Souza" in half[0].read_bytes()
    mine = whole.parent / ".gitignore"
    mine.write_text("*")
    log = half[0].with_name(half[0].name + "-journal")
    log.write_bytes(b"Ana Souza")
    then(store)
    assert whole.exists() and mine.exists() and not half[0].exists() and not log.exists()


def test_what_a_living_backup_writes_stays(store, monkeypatch):
    store.vote("q", "a", "v1", True, "Ana Souza")
    child, go = beginning(store, go=True)
    half = list(BackupFolder(store.path).folder.iterdir())
    assert len(half) == 1
    monkeypatch.setattr(votes, "PATIENCE_S", 0)
    with pytest.raises(FeedbackError, match="another backup has been at work for 0 seconds; try again"):
        store.backup()
    with pytest.raises(
        FeedbackError, match="1 rows of 'Ana Souza' are deleted, but not from the backups: .*another backup"
    ):
        store.forget("Ana Souza")
    assert half[0].exists()
    go.set()
    child.join(60)
    monkeypatch.undo()
    assert child.exitcode == 0 and store.forget("Ana Souza") == 0
    left = list(half[0].parent.iterdir())
    assert len(left) == 1 and b"Ana Souza" not in left[0].read_bytes()


def test_a_folder_of_backups_that_is_a_file(store):
    BackupFolder(store.path).folder.write_text("mine")
    with pytest.raises(FeedbackError, match=r"votes.db.backups: File exists; it must be a folder"):
        store.backup()


def old_file(path, version=1):
    with closing(sqlite3.connect(path)) as db:
        for statement in MIGRATIONS[0]:
            db.execute(statement)
        for i in range(50):
            db.execute(
                "INSERT INTO feedback (kind, prompt, answer, version, says, rater, note, time) "
                "VALUES ('vote', ?, 'a', 'v1', 1, 'ana', '', '2026-01-01')",
                (f"q{i}",),
            )
        db.execute(f"PRAGMA user_version = {version}")
        db.commit()


def test_an_old_file_is_upgraded_by_many_at_once(tmp_path):
    path = tmp_path / "old.db"
    old_file(path)
    store = written(path, 3)
    assert store.numbers()["votes"] == 50 + 24 and store._execute("PRAGMA user_version") == [
        (len(MIGRATIONS),)
    ]
    assert store.vote("q", "a", "v1", True, key="k") == store.vote("q", "a", "v1", True, key="k")


def test_an_upgrade_that_breaks_off_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "old.db"
    old_file(path)
    before = path.read_bytes()
    monkeypatch.setattr(votes, "MIGRATIONS", (MIGRATIONS[0], (MIGRATIONS[1][0], "NOT SQL")))
    with pytest.raises(FeedbackError):
        Feedback(path)
    assert path.read_bytes() == before
    monkeypatch.undo()
    assert Feedback(path).numbers()["votes"] == 50


def test_files_that_are_no_store(tmp_path):
    old_file(tmp_path / "new.db", version=99)
    before = (tmp_path / "new.db").read_bytes()
    with pytest.raises(
        FeedbackError, match="newer ftguide .version 99 of the store, this one knows 2.; upgrade"
    ):
        Feedback(tmp_path / "new.db")
    assert (tmp_path / "new.db").read_bytes() == before
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute("CREATE TABLE songs (name)")
    with pytest.raises(FeedbackError, match="not a store of feedback"):
        Feedback(tmp_path / "other.db")
    with pytest.raises(FeedbackError):
        Feedback(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(FeedbackError, match="file in a folder"):
        Feedback(tmp_path / "file" / "votes.db")
    with pytest.raises(FeedbackError, match="no store"):
        pairs_from(tmp_path / "none.db")


# ---- what is kept


@settings(max_examples=40)
@given(st.text(min_size=1), st.text(), st.text(), st.text())
def test_any_text_comes_back_as_it_was(prompt, answer, rater, note):
    with closing(Feedback(Path(STORES) / "any.db")) as store:
        try:
            i = store.vote(prompt, answer, "v1", True, rater, note)
        except FeedbackError as e:
            assert not prompt.strip() or "half a character" in str(e)
            return
        row = store.rows()[-1]
        assert (row["id"], row["prompt"], row["answer"], row["rater"], row["note"]) == (
            i,
            prompt,
            answer,
            rater,
            note,
        )


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory):
    global STORES
    STORES = tmp_path_factory.mktemp("stores")


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda s: s.vote("q", "a", "v1", 1), "up must be True or False"),
        (lambda s: s.vote(" ", "a", "v1", True), "prompt is empty"),
        (lambda s: s.vote(["q"], "a", "v1", True), "prompt must be text, not list"),
        (lambda s: s.vote("q", "a\ud800", "v1", True), "answer holds half a character"),
        (lambda s: s.vote("q", "a", None, True), "version must be text"),
        (lambda s: s.vote("q", "a", "v1", True, key=3), "key must be text"),
        (lambda s: s.choose("q", "a", "b", "v1", "v2", "left"), "chosen must be a, b or tie"),
        (lambda s: s.choose("q", "a", None, "v1", "v2", "a"), "b must be text"),
        (lambda s: s.forget(" "), "rater is empty"),
        (lambda s: s.export("x.txt"), "unknown format '.txt'"),
        (lambda s: s.export("x.jsonl", personal="hide"), "refuse, mask or keep"),
        (lambda s: pairs_from(s, min_votes=0), "min_votes"),
        (lambda s: thumbs_from(s, min_margin=1), "min_margin"),
    ],
)
def test_bad_input_is_one_line_and_keeps_nothing(store, call, says):
    with pytest.raises(FeedbackError, match=says) as e:
        call(store)
    assert "\n" not in str(e.value) and store.rows() == []


def test_numbers_count_by_version(store):
    for up in (True, True, False):
        store.vote("q", "a", "v1", up)
    for chosen in ("b", "b", "tie", "a"):
        store.choose("q", "x", "y", "v1", "v2", chosen)
    store.choose("q", "x", "z", "v1", "v1", "a")
    n = store.numbers()
    assert (n["votes"], n["choices"], n["share_up"].value) == (3, 5, pytest.approx(2 / 3))
    assert (
        n["win_rate"]["v2"].value == pytest.approx(2.5 / 4)
        and n["win_rate"]["v1"].value == pytest.approx(1.5 / 4)
        and n["win_rate"]["v2"].n == 4
    )
    assert (
        n["by_version"]["v2"]["votes"] == 0
        and n["by_version"]["v2"]["share_up"] is None
        and n["by_version"]["v1"]["up"] == 2
    )
    assert Feedback(store.path.with_name("empty.db")).numbers() == dict(
        votes=0, choices=0, repeated=0, share_up=None, win_rate={}, by_version={}
    )


def test_the_last_click_of_a_person_counts(store):
    for _ in range(50):
        store.choose("Qual?", "azul", "verde", "v1", "v2", "a", rater="ana")
    for rater in ("bia", "caio", "davi"):
        store.choose("Qual?", "azul", "verde", "v1", "v2", "b", rater=rater)
    n = store.numbers()
    assert (n["choices"], n["repeated"]) == (53, 49)
    assert (n["win_rate"]["v1"].value, n["win_rate"]["v1"].n) == (0.25, 4)
    store.choose("Qual?", "verde", "azul", "v2", "v1", "a", rater="ana")  # the other way round: v2 now
    assert store.numbers()["win_rate"]["v1"].value == 0
    for up in (True, True, False):
        store.vote("q", "a", "v1", up, rater="ana")
    store.vote("q", "a", "v1", True, rater="5")  # a name of digits is no row number
    store.vote("q", "a", "v2", True, rater="ana")  # another version that said the same
    n = store.numbers()
    assert (n["votes"], n["by_version"]["v1"]["votes"], n["by_version"]["v1"]["up"]) == (5, 2, 1)
    assert n["by_version"]["v2"]["up"] == 1 and n["repeated"] == 52


# ---- privacy


def test_export_and_read_again(store, tmp_path):
    store.vote("q", "a", "v1", True, "Ana", "fine", key="secret")
    store.choose("q", "a", "b", "v1", "v2", "tie", "Bo")
    store.vote("mail ana@example.com", "a", "v1", False, "Ana")
    with pytest.raises(
        FeedbackError, match="rows with personal data: 1 .e-mail: 1; row 3.; nothing was exported"
    ):
        store.export(tmp_path / "x.jsonl")
    assert not list(tmp_path.glob("*x.jsonl*"))
    lines = [
        json.loads(line)
        for line in store.export(tmp_path / "x.jsonl", "mask").read_text(encoding="utf-8").splitlines()
    ]
    assert (
        [line["rater"] for line in lines] == ["rater 1", "rater 2", "rater 1"]
        and lines[2]["prompt"] == "mail [e-mail]"
        and "key" not in lines[0]
    )
    import pyarrow.parquet as pq

    table = pq.read_table(store.export(tmp_path / "x.parquet", "keep", raters=True)).to_pylist()
    assert (
        [r["rater"] for r in table] == ["Ana", "Bo", "Ana"]
        and table[1]["chosen"] == "tie"
        and table[2]["prompt"] == "mail ana@example.com"
    )
    with pytest.raises(FileExistsError):
        store.export(tmp_path / "x.jsonl", "keep")


def test_forget_leaves_no_trace(store, tmp_path):
    for i in range(300):
        store.vote(
            f"q{i}",
            "a" * 200,
            "v1",
            True,
            "Ana Souza" if i % 3 else "bo",
            "private note of Ana" if i % 3 else "",
        )
    store.backup()
    store.backup()
    assert store.forget("Ana Souza") == 200 and store.forget("Ana Souza") == 0
    assert {r["rater"] for r in store.rows()} == {"bo"} and store.numbers()["votes"] == 100
    assert not [
        p
        for p in tmp_path.rglob("*")
        if p.is_file() and (b"Ana Souza" in p.read_bytes() or b"private note" in p.read_bytes())
    ]


def test_forget_names_what_it_cannot_clean(store):
    store.vote("q", "a", "v1", True, "Ana")
    copy = store.backup()
    copy.write_bytes(b"Ana, but no database")
    with pytest.raises(FeedbackError, match=f"1 rows of 'Ana' are deleted, but they may still be in {copy}"):
        store.forget("Ana")
    assert store.rows() == []


def test_forget_names_copies_of_a_store_whatever_its_name(tmp_path):
    store = Feedback(tmp_path / "a[1].db")
    store.vote("q", "a", "v1", True, "Ana")
    copy = store.backup()
    there = [
        tmp_path / "a[1].db.damaged",
        tmp_path / ".a[1].db-4711",
        copy.with_name("20260101-120000-000000.db-wal"),
    ]  # a restored store's, of a `restore` that was killed, of a backup that is gone
    for p in there:
        p.write_bytes(b"Ana")
    (tmp_path / ".b.db-4711").write_bytes(b"Ana")
    with pytest.raises(FeedbackError) as e:
        store.forget("Ana")
    assert sorted(
        str(e.value).split("may still be in ")[1].removesuffix("; delete these files").split(", ")
    ) == sorted(map(str, there))


def test_forget_cleans_a_backup_that_somebody_looks_at(store):
    store.vote("q", "a", "v1", True, "Ana Souza")
    copy = store.backup()
    looks = Feedback(copy)
    assert len(looks.rows()) == 1
    assert (
        store.forget("Ana Souza") == 1
        and not [p for p in copy.parent.iterdir() if b"Ana Souza" in p.read_bytes()]
        and looks.rows() == []
    )
    looks.close()


def cli(*args):
    r = CliRunner().invoke(app, [str(a) for a in args])
    return r.exit_code, r.output


def test_votes_command(store, tmp_path):
    store.vote("q", "x", "v1", True, "ana")
    store.vote("q", "y", "v2", False, "bo")
    code, said = cli(
        "votes",
        store.path,
        "--pairs",
        tmp_path / "p.jsonl",
        "--thumbs",
        tmp_path / "t.jsonl",
        "--export",
        tmp_path / "all.jsonl",
        "--backup",
    )
    assert code == 0 and "2 votes, share up 0.500" in said and "1 rows in" in said and "copied to" in said, (
        said
    )
    assert read(tmp_path / "p.jsonl", "pairs")[0]["chosen"] == "x" and len(read(tmp_path / "t.jsonl")) == 2
    assert cli("votes", store.path, "--forget", "ana")[1].startswith("deleted 1 rows of ana\n1 votes")
    assert cli("votes", store.path, "--export", tmp_path / "all.jsonl") == (
        2,
        f"error: {tmp_path / 'all.jsonl'} exists; choose another file\n",
    )
    assert (
        cli("votes", tmp_path / "none.db") == (2, f"error: no store {tmp_path / 'none.db'}\n")
        and not (tmp_path / "none.db").exists()
    )
    store.close()
    store.path.write_bytes(b"no database at all" * 100)
    code, said = cli("votes", store.path)
    assert code == 2 and said.count("\n") == 1 and "newest backup" in said


# ---- files made to do harm

ENDLESS = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT"
HARM = {
    "a view in the table's place": [
        "ALTER TABLE feedback RENAME TO kept",
        f"CREATE VIEW feedback AS {ENDLESS} n AS id, 'vote' AS kind, 'q' AS prompt FROM t",
    ],
    "a trigger that deletes": ["CREATE TRIGGER t AFTER INSERT ON feedback BEGIN DELETE FROM feedback; END"],
    "a trigger that does not end": [
        f"CREATE TRIGGER t AFTER INSERT ON feedback BEGIN INSERT INTO feedback (note) {ENDLESS} n FROM t; END"
    ],
    "a view beside it": [f"CREATE VIEW v AS {ENDLESS} n FROM t"],
    "an index with a function": ["CREATE INDEX i ON feedback (abs(says))"],
    "columns missing": ["ALTER TABLE feedback DROP COLUMN note"],
    "columns of others": ["ALTER TABLE feedback ADD COLUMN more TEXT"],
    "nulls": [
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '') WHERE name = 'feedback'",
    ],
    "another table": ["CREATE TABLE more (x)"],
    "no table": ["DROP TABLE feedback"],
    "version 0": ["PRAGMA user_version = 0"],
    "a version below 0": ["PRAGMA user_version = -3"],
    "bytes for text": ["UPDATE feedback SET prompt = x'ff00'"],
    "text that is none": ["UPDATE feedback SET answer = CAST(x'ff' AS TEXT)"],
    "a choice of nothing": ["UPDATE feedback SET kind = 'choice'"],
    "half a character": ["UPDATE feedback SET rater = CAST(x'eda080' AS TEXT)"],
}


ROWS_ONLY = ("bytes for text", "text that is none", "a choice of nothing", "half a character")


@pytest.mark.parametrize("harm", HARM)
def test_a_store_made_to_do_harm_is_one_line(store, harm):
    "Whatever it holds: nothing of it runs, nothing hangs, and it stays as it is."
    store.vote("q", "a", "v1", True, rater="ana")
    store.close()
    with closing(sqlite3.connect(store.path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        for statement in HARM[harm]:
            db.execute(statement)
    before, began = store.path.read_bytes(), time.monotonic()
    with pytest.raises(FeedbackError) as e:
        found = Feedback(store.path)
        found.rows(), found.numbers()
    assert "\n" not in str(e.value) and time.monotonic() - began < 20
    if harm not in ROWS_ONLY:
        assert store.path.read_bytes() == before and not backups.is_readable(store.path)


@pytest.mark.parametrize(
    "what", ["a folder", "a pipe", "a text", "a letter", "a format of the future", "a part"]
)
def test_a_file_that_is_no_database_is_one_line(store, tmp_path, what):
    path = tmp_path / "other.db"
    if what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    elif what in ("a text", "a letter"):
        path.write_text("prompt,answer\n" * 500 if what == "a text" else "x")
    else:
        store.vote("q", "a", "v1", True)
        store.close()
        content = bytearray(store.path.read_bytes())
        if what == "a part":
            content = content[: len(content) // 2]
        else:
            content[18:20] = b"\x09\x09"
        path.write_bytes(content)
    began = time.monotonic()
    with pytest.raises(FeedbackError) as e:
        Feedback(path).numbers()
    assert "\n" not in str(e.value) and time.monotonic() - began < 20
    assert what != "a letter" or path.read_text() == "x"  # and not a new store


CELLS = st.none() | st.integers(-3, 3) | st.binary(max_size=4) | st.text(max_size=5) | st.just(1e300)


@settings(max_examples=60)
@given(
    st.lists(st.dictionaries(st.sampled_from(votes.COLUMNS), CELLS, max_size=4), max_size=3),
    st.sampled_from([0, 1, 2]),
)
def test_any_row_is_read_or_refused_in_one_line(tmp_path_factory, changes, version):
    "Rows whose checks were switched off: counted as they are, or one line."
    path = tmp_path_factory.mktemp("any") / "votes.db"
    store = Feedback(path)
    for n in range(4):
        store.vote("q", "a", "v1", True, rater=f"r{n}")
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        for number, change in enumerate(changes, 1):
            for column, cell in change.items():
                with suppress(sqlite3.Error, UnicodeEncodeError):
                    db.execute(f"UPDATE feedback SET {column} = ? WHERE id = ?", (cell, number))
        if version != 2:
            db.execute(f"PRAGMA user_version = {version}")
    try:
        store = Feedback(path)
        rows, numbers = store.rows(), store.numbers()
        assert len(rows) == 4 and numbers["votes"] + numbers["choices"] == 4
        pairs_from(store), thumbs_from(store)
    except FeedbackError as e:
        assert "\n" not in str(e)
