"KTO: thumbs move what they judge; thumbs that cannot be used."

import inspect

import pytest
import torch
from datasets import IterableDataset
from stages import weights

from ftguide.dpo import align_dpo, align_kto
from ftguide.engine.formats import DataError
from ftguide.models import completion_logps, load

ANSWERS = [(f"How much is {i} + 1?", str(i + 1), f"no idea about {i}") for i in range(80)]
THUMBS = [
    dict(prompt=prompt, completion=right if i % 3 else wrong, label=bool(i % 3))
    for i, (prompt, right, wrong) in enumerate(ANSWERS)
]


def test_thumbs_move_what_they_judge(tmp_path):
    up, down = ([t for t in THUMBS if t["label"] is side] for side in (True, False))

    def mean(lm, rows):
        sums, _ = completion_logps(lm, [t["prompt"] for t in rows], [t["completion"] for t in rows])
        return sums.mean().item()

    start = load("tiny-small")
    before = weights(start).clone()
    lm = align_kto(start, THUMBS, epochs=2, learning_rate=1e-3, output_dir=tmp_path)
    assert mean(lm, up) - mean(lm, down) > mean(start, up) - mean(start, down) + 1
    assert torch.equal(weights(start), before) and list(tmp_path.glob("checkpoint-*/whole.json"))


@pytest.mark.parametrize(
    "rows, says",
    [
        ([dict(prompt="a", completion="b", label="up")] * 4, "row 1: label must be true"),
        ([dict(prompt="a", completion="b")] * 4, "label must be true"),
        ([dict(prompt=f"a{i}", completion="b", label=True) for i in range(4)], "4 thumbs up and 0 down"),
        ([dict(prompt="a", label=True)], "columns found"),
        ([], "empty|no rows"),
        (
            [
                dict(
                    messages=[dict(role="user", content=f"a{i}"), dict(role="assistant", content="b")],
                    label=i % 2,
                )
                for i in range(4)
            ],
            "row 1 has messages, and a thumb judges one answer: give prompt .*, completion and label",
        ),
    ],
)
def test_thumbs_that_cannot_be_used(rows, says):
    with pytest.raises(DataError, match=says):
        align_kto("tiny-small", rows)


def test_kto_needs_company():
    with pytest.raises(ValueError, match="batch_size must be 2 or more"):
        align_kto("tiny-small", THUMBS, batch_size=1)
    with pytest.raises(ValueError, match="beta must be above 0"):
        align_kto("tiny-small", THUMBS, beta=0)


@pytest.mark.parametrize("long", [dict(prompt="very " * 600), dict(completion="very " * 600)], ids=list)
def test_thumbs_beyond_the_context_are_refused(long):
    rows = [dict(t, **long) for t in THUMBS[:8]]
    with pytest.raises(DataError, match="8 of 8 rows do not fit into KTO's context of 512 tokens"):
        align_kto("tiny-small", rows, batch_size=2)
    with pytest.raises(DataError, match="do not fit"):
        align_kto("tiny-small", THUMBS, eval_data=rows)


def test_a_rate_that_moves_no_weight_is_refused_or_forced():
    with pytest.raises(ValueError, match="no step would be made"):
        align_kto("tiny-small", THUMBS[:9], batch_size=16, dataloader_drop_last=True)
    with pytest.warns(UserWarning, match="training all the same"):
        align_kto("tiny-small", THUMBS[:8], force=True)


def test_validation_keeps_the_best_and_stops_early():
    "Validation thumbs that say the opposite: it can only get worse."
    opposite = [dict(t, label=not t["label"]) for t in THUMBS[:16]]
    lm = align_kto("tiny-small", THUMBS[:32], epochs=20, learning_rate=1e-3, eval_data=opposite, patience=2)
    seen = [h["eval_loss"] for h in lm.history if "eval_loss" in h]
    assert len(seen) < 40 and seen.index(min(seen)) == len(seen) - 3
    with pytest.raises(ValueError, match="patience"):
        align_kto("tiny-small", THUMBS, patience=0)
    with pytest.raises(DataError, match="row 1: label must be true"):
        align_kto("tiny-small", THUMBS, eval_data=[dict(THUMBS[0], label="up")])


def test_it_takes_what_dpo_takes():
    of = lambda stage: inspect.signature(stage).parameters
    theirs, ours = of(align_dpo), of(align_kto)
    assert {name for name in theirs if theirs[name].kind is not inspect.Parameter.VAR_KEYWORD} - {
        "cache"
    } <= set(ours)
    for name in set(theirs) & set(ours) - {"batch_size", "name"}:
        assert theirs[name].kind == ours[name].kind and theirs[name].default == ours[name].default, name


def test_of_a_stream_the_rows_of_its_steps_are_read():
    taken = []

    def rows():
        for n in range(10_000):
            taken.append(n)
            yield THUMBS[n % 80]

    endless = IterableDataset.from_generator(rows)
    lm = align_kto("tiny-small", endless, batch_size=4, max_steps=5)
    assert max(h["step"] for h in lm.history) == 5 and max(taken) < 1000
    assert torch.equal(weights(lm), weights(align_kto("tiny-small", THUMBS[:20], batch_size=4)))
    with pytest.raises(ValueError, match="max_steps"):
        align_kto("tiny-small", endless)


def test_an_adapter_is_merged():
    before = weights(load("tiny-small"))
    lm = align_kto("tiny-small", THUMBS[:32], learning_rate=1e-2, lora=True)
    assert type(lm.model).__name__ == "LlamaForCausalLM" and not torch.equal(weights(lm), before)


def test_a_run_that_was_kept_goes_on(tmp_path):
    whole = align_kto("tiny-small", THUMBS[:32], output_dir=tmp_path)
    again = align_kto("tiny-small", THUMBS[:32], output_dir=tmp_path, resume=True)
    assert torch.equal(weights(whole), weights(again))
    with pytest.raises(ValueError, match="beta was 0.1 and is 0.2"):
        align_kto("tiny-small", THUMBS[:32], output_dir=tmp_path, resume=True, beta=0.2)


def test_thumbs_of_a_table(tmp_path):
    "A table holds text: the run is the one of the same thumbs in JSON."
    table = tmp_path / "thumbs.csv"
    words = {True: ("true", "1", "Yes"), False: ("false", "0", "no")}
    lines = [f"{t['prompt']},{t['completion']},{words[t['label']][n % 3]}" for n, t in enumerate(THUMBS[:16])]
    table.write_text("prompt,completion,label\n" + "\n".join(lines) + "\n")
    how = dict(max_steps=2, learning_rate=1e-3)
    assert torch.equal(
        weights(align_kto("tiny-small", table, **how)), weights(align_kto("tiny-small", THUMBS[:16], **how))
    )
    with pytest.warns(UserWarning, match="16 of 16 validation rows"):
        align_kto("tiny-small", THUMBS[:16], eval_data=table, **how)
