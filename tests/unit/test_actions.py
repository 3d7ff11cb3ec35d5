"What a press of a button does: sides, keys that count once, the version that answers."

import shutil
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from deployed import put

from ftguide.models import load, save
from ftguide.serving.actions import PageActions, PendingVotes, ServedModel
from ftguide.serving.errors import PageError
from ftguide.serving.limits import Limits
from ftguide.serving.votes import Feedback


def fake(texts):
    def write(prompt):
        yield from texts

    return SimpleNamespace(now=lambda: (write, texts[0]))


def request(host="10.0.0.1"):
    return SimpleNamespace(client=SimpleNamespace(host=host), username=None, session_hash="s")


def test_sides_are_shuffled_and_stored_as_they_were_shown(tmp_path):
    store = Feedback(tmp_path / "votes.db")
    parts = PageActions(fake(["one"]), fake(["two"]), store, Limits(per_minute=10_000))
    for _ in range(200):
        a, b, key, _ = list(parts.compare("Hi", request()))[-1]
        assert {a, b} == {"one", "two"} and "one" not in key
        parts.choose(key, "a", "", request())
    rows = store.rows()
    assert all((r["a"], r["b"]) == (r["version_a"], r["version_b"]) for r in rows)
    assert 60 < sum(r["version_a"] == "one" for r in rows) < 140


def test_two_presses_at_the_same_moment_count_once(tmp_path):
    store = Feedback(tmp_path / "votes.db")
    pending = PendingVotes(store)
    keys = [pending.put(prompt="Hi", answer=str(i), version="v1") for i in range(10)]

    def press(key):
        try:
            pending.take(key, "vote", up=True)
            return 1
        except PageError:
            return 0

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(press, keys * 8)) == 10
    assert len(store.rows()) == 10


def test_old_answers_make_room():
    pending = PendingVotes(None, keep=3)
    keys = [pending.put(prompt=str(i)) for i in range(5)]
    assert list(pending.open) == keys[2:]


@pytest.mark.parametrize(
    "prompt, says",
    [
        ("", "write a question"),
        (" \n", "write a question"),
        ("x" * 2001, "2,001 characters; the page takes 2,000"),
        ("a\ud800", "half a character"),
    ],
)
def test_prompts_that_are_refused(prompt, says):
    with pytest.raises(PageError, match=says):
        next(PageActions(fake(["one"]), None, None, Limits()).ask(prompt, request()))


def test_a_new_version_is_followed_and_a_broken_one_is_not(tmp_path, capsys):
    put(tmp_path, "tiny-small")
    served = ServedModel(tmp_path)
    put(tmp_path, "tiny")
    assert served.now()[1] == "v2"
    put(tmp_path, "tiny")
    next((tmp_path / "v3").glob("*.safetensors")).write_bytes(b"cut off")
    assert served.now()[1] == "v2" and served.now()[1] == "v2"
    assert capsys.readouterr().err.count("v2 stays in service") == 1
    (tmp_path / "current").unlink()
    (tmp_path / "current").write_text("v9\n")
    assert served.now()[1] == "v2"
    (tmp_path / "current").write_bytes(b"\xff\xfe")
    assert served.now()[1] == "v2"  # no text at all


def test_a_vote_is_credited_to_the_weights_that_answered(tmp_path):
    "By way of `current`, and of a link that somebody else made and moves."
    put(tmp_path / "ads", "tiny-small")
    (tmp_path / "link").symlink_to("ads/v1", target_is_directory=True)
    served, linked = ServedModel(tmp_path / "ads/current"), ServedModel(tmp_path / "link")
    size = lambda s: (s.now()[1], s.now()[0].lm.parameters)
    small, large = load("tiny-small").parameters, load("tiny").parameters
    assert size(served) == size(linked) == ("v1", small) and served.folder == tmp_path / "ads"
    put(tmp_path / "ads", "tiny")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("ads/v2", target_is_directory=True)
    assert size(served) == size(linked) == ("v2", large)
    shutil.copytree(tmp_path / "ads/v1", tmp_path / "plain/current")
    assert (
        ServedModel(tmp_path / "plain/current").folder == tmp_path / "plain/current"
    )  # a model folder that happens to be called so
    pytest.importorskip("gradio")
    from ftguide.serving.page import page

    page(tmp_path / "ads/current", tmp_path / "ads/v1")
    assert (tmp_path / "ads/feedback.db").is_file() and not (tmp_path / "ads/v2/feedback.db").exists()
    (tmp_path / "ads/current").unlink()
    (tmp_path / "ads/current").write_text("v1\n")  # where there are no links
    assert size(ServedModel(tmp_path / "ads/current")) == ("v1", small)


def test_names_of_versions(tmp_path):
    put(tmp_path / "ads", "tiny-small")
    put(tmp_path / "ads", "tiny-small")
    put(tmp_path / "other", "tiny-small")
    names = [
        ServedModel(tmp_path / at, beside=tmp_path / "ads").now()[1]
        for at in ("ads", "ads/v1", "other", "other/v1")
    ]
    assert names == ["v2", "v1", "other/v1", "other/v1"]


def test_a_model_with_a_name_of_the_guides_is_served_by_it(tmp_path, monkeypatch):
    "The fetched one, too: from the cache, where its folder may be called anything."
    monkeypatch.setenv("FTGUIDE_CACHE", str(tmp_path))
    save(load("tiny-small"), tmp_path / "smollm2-135m")
    for name in ("tiny", "smollm2-135m"):
        served = ServedModel(name, beside=tmp_path / "ads")
        assert served.now()[1] == name and (served.folder / "config.json").is_file()
    pytest.importorskip("gradio")
    from ftguide.serving.page import page

    with pytest.raises(PageError, match="--store"):
        page("smollm2-135m")
    page("smollm2-135m", "tiny", tmp_path / "votes.db")


class FullDisk:
    path = "votes.db"

    def vote(self, **row):
        raise OSError("no room on the disk")


def test_a_vote_that_could_not_be_stored_may_be_tried_again():
    pending = PendingVotes(FullDisk())
    key = pending.put(prompt="Hi", answer="Hello", version="v1")
    with pytest.raises(OSError, match="no room"):
        pending.take(key, "vote", up=True)
    assert key in pending.open


def test_a_key_that_was_not_given_out_stores_nothing(tmp_path):
    store = Feedback(tmp_path / "votes.db")
    pending = PendingVotes(store)
    key = pending.put(prompt="Hi", answer="Hello", version="v1")
    assert len(key) == 22
    with pytest.raises(PageError, match="no answer here"):
        pending.take("a-guess", "vote", up=True, rater="eve")
    pending.take(key, "vote", up=True, note="short", rater="ana")
    with pytest.raises(PageError, match="voted on already"):
        pending.take(key, "vote", up=True, rater="ana")
    assert len(store.rows()) == 1
