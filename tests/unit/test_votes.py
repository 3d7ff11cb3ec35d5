"The store of votes: processes, crashes, damage, old and new files, privacy."

import multiprocessing
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest
from commands import cli
from hypothesis import given, settings
from hypothesis import strategies as st
from voters import writer, written

from ftguide.engine.rows import read
from ftguide.engine.texts import is_blank
from ftguide.feedback import pairs_from, thumbs_from
from ftguide.serving import votes
from ftguide.serving.errors import FeedbackError
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


# ---- what is kept


@settings(max_examples=40)
@given(st.text(min_size=1), st.text(), st.text(), st.text())
def test_any_text_comes_back_as_it_was(prompt, answer, rater, note):
    with closing(Feedback(Path(STORES) / "any.db")) as store:
        try:
            i = store.vote(prompt, answer, "v1", True, rater, note)
        except FeedbackError as e:
            assert is_blank(prompt) or "half a character" in str(e)
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
        f"error: {tmp_path / 'all.jsonl'} exists; choose another file",
    )
    code, said = cli("votes", tmp_path / "none.db")
    assert code == 2 and said.startswith(f"error: no store of votes at {tmp_path / 'none.db'}; ")
    assert "\n" not in said and not (tmp_path / "none.db").exists()
    store.close()
    store.path.write_bytes(b"no database at all" * 100)
    code, said = cli("votes", store.path)
    assert code == 2 and "\n" not in said and "newest backup" in said


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
