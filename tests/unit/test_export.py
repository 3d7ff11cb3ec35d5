"Votes written for others: without names, and personal data only where it is asked for."

import json

import pytest

from ftguide.serving.errors import FeedbackError
from ftguide.serving.votes import Feedback


@pytest.fixture
def store(tmp_path):
    return Feedback(tmp_path / "votes.db")


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
