"Rating in a notebook, with the clicks of a program."

import nbformat
import pytest

pytest.importorskip("ipywidgets")

from ftguide.feedback import pairs_from, thumbs_from
from ftguide.serving.errors import FeedbackError
from ftguide.serving.rater import rate
from ftguide.serving.votes import Feedback


def test_twenty_answers_are_rated_in_a_kernel(tmp_path):
    from nbclient import NotebookClient

    code = (
        f"""from ftguide.serving.rater import rate
from ftguide.serving.votes import Feedback
rows = [dict(prompt=f"<b>q{{i}}</b>", answer=f"<script>{{i}}</script>", version="v7") for i in range(30)]
box = rate(rows, {str(tmp_path / "v.db")!r}, rater="me", pause_s=0)
box""",
        """press = lambda text: next(b for b in box.children[-1].children if text in b.description).click()
for i in range(20): box.children[3].value = "why"; press("👍" if i % 2 else "👎")
assert "done: 20 of 20" in box.children[0].value, box.children[0].value
press("back"); press("👎")
print(len(Feedback.numbers.__doc__) > 0, box.children[0].value)""",
    )
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in code])
    NotebookClient(nb, kernel_name="python3", timeout=100).execute()
    assert "application/vnd.jupyter.widget-view+json" in nb.cells[0].outputs[0]["data"]
    rows = Feedback(tmp_path / "v.db").rows()
    assert (
        Feedback(tmp_path / "v.db").numbers()["votes"] == len(rows) == 21
        and len({r["prompt"] for r in rows}) == 20
        and {r["version"] for r in rows} == {"v7"}
        and rows[0]["note"] == "why"
    )
    thumbs, lost = thumbs_from(rows)
    assert len(thumbs) == 20 and sum(t["label"] for t in thumbs) == 9 and lost == {"replaced": 1}


def test_sides_are_shuffled_and_come_back_right(tmp_path):
    rows = [
        dict(prompt=f"q{i}", a=f"good {i}", b=f"bad {i}", version_a="v1", version_b="v2") for i in range(20)
    ]
    box = rate(rows, tmp_path / "v.db", pause_s=0)
    press = lambda text: next(b for b in box.children[-1].children if b.description == text).click()
    left = 0
    for _ in range(20):
        side = box.children[2].children[0].value.startswith("good")
        left += side
        press("left is better" if side else "right is better")
    assert 3 < left < 17
    kept = Feedback(tmp_path / "v.db")
    assert kept.numbers()["win_rate"]["v1"].value == 1 and all(
        p["chosen"].startswith("good") for p in pairs_from(kept)[0]
    )


def test_a_double_click_rates_one_answer(tmp_path):
    box = rate([dict(prompt=f"q{i}", answer="a") for i in range(5)], tmp_path / "v.db", pause_s=60)
    for _ in range(3):
        box.children[-1].children[0].click()
    assert Feedback(tmp_path / "v.db").numbers()["votes"] == 1


@pytest.mark.parametrize(
    "what, says",
    [
        ([], "nothing to rate"),
        ([dict(prompt="q")], "row 1: columns found: prompt"),
        (["q"], "row 1: columns found: str"),
        ("tiny-small", "a model needs prompts"),
        ([dict(prompt="q", answer="a"), dict(prompt="q", a="a", b="b")], "cannot be mixed"),
    ],
)
def test_what_cannot_be_rated(tmp_path, what, says):
    with pytest.raises(FeedbackError, match=says):
        rate(what, tmp_path / "v.db")


def test_a_model_is_rated_on_its_own_answers(tmp_path):
    box = rate(
        "tiny-small", tmp_path / "v.db", prompts=["kettle", "mug", "lamp"], max_new_tokens=8, pause_s=0
    )
    box.children[-1].children[0].click()
    assert Feedback(tmp_path / "v.db").rows()[0]["version_a"] == "tiny-small"
