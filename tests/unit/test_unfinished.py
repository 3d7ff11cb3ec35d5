"Work of a stage that was stopped: rows are made once, models trained once, checkpoints deleted."

import pytest
import torch

from ftguide.engine.unfinished import Unfinished
from ftguide.models import load


def test_without_a_folder_nothing_is_kept():
    made = []
    work = Unfinished(None)
    assert work.rows("a", lambda: made.append(1) or (1, 2)) == (1, 2)
    assert work.rows("a", lambda: made.append(1) or (1, 2)) == (1, 2) and len(made) == 2
    assert work.model("m", lambda: "trained") == "trained"


def test_rows_are_made_once(tmp_path):
    rows = [dict(prompt="Olá", margin=0.1 + 0.2), dict(prompt=[dict(role="user", content="?")])]
    assert Unfinished(tmp_path / "s").rows("pairs of round 1", lambda: (rows, [])) == [rows, []]
    assert Unfinished(tmp_path / "s").rows("pairs of round 1", lambda: pytest.fail("again")) == [rows, []]


def test_a_model_is_trained_once(tmp_path):
    lm, seen = load("tiny-small").copy(), []

    def train(output_dir, resume):
        seen.append(resume)
        output_dir.mkdir(parents=True)
        if len(seen) == 1:
            raise RuntimeError("stopped")
        return lm

    work = Unfinished(tmp_path)
    with pytest.raises(RuntimeError):
        work.model("m", train)
    assert (tmp_path / "m.checkpoints").is_dir() and not (tmp_path / "m").exists()
    (tmp_path / "m.checkpoints").rmdir()
    found = work.model("m", train)
    again = work.model("m", train)
    assert seen == [True, True] and not (tmp_path / "m.checkpoints").exists()
    for one, two in zip(found.model.parameters(), again.model.parameters()):
        assert torch.equal(one, two) and one.dtype == torch.float32
