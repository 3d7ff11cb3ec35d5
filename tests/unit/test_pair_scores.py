"Scores that stand beside a pair and prefer the other answer."

import pytest

from ftguide.data import check
from ftguide.engine.pair_scores import contradicting, pair_scores, scores_against


def pair(**scores):
    return dict(prompt="Which colour is the mug?", chosen="Violet.", rejected="No idea.", **scores)


@pytest.mark.parametrize(
    "scores, agrees",
    [
        (dict(score_chosen=9.0, score_rejected=2), [True]),
        (dict(score_chosen=2.0, score_rejected=9.0), [False]),
        (dict(score_chosen=7, score_rejected=7), [False]),
        (dict(chosen_score="1", rejected_score="2.5"), [False]),
        ({"chosen-rating": 4, "rejected-rating": 5}, [False]),
        (dict(chosen_avg_rating=4.5, rejected_avg_rating=3.25), [True]),
        (dict(CHOSEN_REWARD=-3, REJECTED_REWARD=-1), [False]),
        (dict(score_chosen=1, score_rejected=2, rating_chosen=2, rating_rejected=1), [False, True]),
        (dict(chosen_tokens=10, rejected_tokens=20), []),
        (dict(chosen_model="a", rejected_model="b"), []),
        (dict(score_chosen=None, score_rejected=2), []),
        (dict(score_chosen=float("nan"), score_rejected=2), []),
        (dict(score_chosen=True, score_rejected=False), []),
        (dict(score_chosen=[1], score_rejected=[2]), []),
        (dict(score_chosen=1), []),
    ],
)
def test_scores_of_a_row(scores, agrees):
    assert [score.agree for score in pair_scores(pair(**scores))] == agrees


def test_what_check_and_training_say():
    rows = [pair(score_chosen=9, score_rejected=i) | dict(prompt=f"Mug {i}?") for i in range(7, 12)]
    rows.append(pair(prompt_id=3))
    assert contradicting(rows)[0] == [2, 3, 4] and "of 5 rows" in contradicting(rows)[1]
    found = check(rows, kind="pairs")["scores say otherwise"]
    assert found.rows == [2, 3, 4] and found.severity == "warning" and contradicting(rows)[1] in found.example
    assert len(scores_against(rows)) == 1 and contradicting(rows)[1] in scores_against(rows)[0]
    assert scores_against(rows[:2]) == [] and "scores say otherwise" not in check(rows[:2], kind="pairs")
    assert "scores say otherwise" not in check([dict(r, completion="x") for r in rows])
