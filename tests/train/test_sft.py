"SFT: the loss of the first step, shapes of rows, and other ways of training."

import json

import pytest
import torch
from stages import FEW, KINDS, ROWS, family, weights

from ftguide.engine.training_data import streamed
from ftguide.models import LM, complete_tokenizer, completion_logps, load, reply
from ftguide.sft import finetune_sft


def test_conversations_score_only_the_assistant():
    rows = [
        dict(
            messages=[
                dict(role="system", content="Be brief."),
                dict(role="user", content="Hi"),
                dict(role="assistant", content="Hello"),
                dict(role="user", content="Who?"),
                dict(role="assistant", content=f"Me {i}"),
            ]
        )
        for i in range(8)
    ]
    assert torch.isfinite(weights(finetune_sft("tiny-small", rows, epochs=1))).all()


@pytest.mark.parametrize("own", [False, True], ids=["template", "own"])
@pytest.mark.parametrize("kind", KINDS)
def test_first_sft_loss_is_the_plain_computation(kind, own):
    lm = family(kind, own)
    before = weights(lm).clone()
    after = finetune_sft(lm, FEW[:4], epochs=1, learning_rate=1e-3, batch_size=4, warmup_steps=0)
    sums, counts = completion_logps(lm, [r["prompt"] for r in FEW[:4]], [r["completion"] for r in FEW[:4]])
    assert next(h["loss"] for h in after.history if "loss" in h) == pytest.approx(
        (-sums.sum() / counts.sum()).item(), rel=1e-4
    )
    assert torch.isfinite(weights(after)).all() and not torch.equal(weights(after), before)


@pytest.mark.parametrize(
    "knobs",
    [
        dict(packing=True),
        dict(lora=True),
        dict(gradient_accumulation_steps=2),
        dict(train_sampling_strategy="group_by_length"),
    ],
    ids=lambda k: next(iter(k)),
)
def test_other_ways_of_training(knobs):
    lm = finetune_sft("tiny-small", FEW, epochs=2, learning_rate=3e-3, **knobs)
    sums, _ = completion_logps(lm, [r["prompt"] for r in FEW], [r["completion"] for r in FEW])
    start, _ = completion_logps(
        load("tiny-small"), [r["prompt"] for r in FEW], [r["completion"] for r in FEW]
    )
    assert sums.sum() > start.sum() and type(lm.model).__name__ == "LlamaForCausalLM"


def test_tokenizer_without_template_or_padding():
    lm = load("tiny")
    lm.tokenizer.chat_template = None
    lm.tokenizer.pad_token = None
    after = finetune_sft(complete_tokenizer(LM(lm.model, lm.tokenizer)), FEW, epochs=1)
    assert isinstance(reply(after, ["Hi", "A longer question"], 4), list)


@pytest.mark.parametrize("stream", (False, True))
def test_validation_rows_are_scored_as_the_training_rows_are(stream, tmp_path):
    "On their answers, whichever shape they and the training rows have."
    turns = [
        dict(
            messages=[dict(role="user", content=r["prompt"]), dict(role="assistant", content=r["completion"])]
        )
        for r in ROWS
    ]

    def losses(rows, valid):
        (path := tmp_path / "train.jsonl").write_text(
            "\n".join(json.dumps(r) for r in rows), encoding="utf-8"
        )
        return [
            h["eval_loss"]
            for h in finetune_sft(
                "tiny-small", streamed(path) if stream else rows, eval_data=valid[:8], max_steps=4, force=True
            ).history
            if "eval_loss" in h
        ]

    expected = losses(ROWS, ROWS)
    for rows, valid in ((turns, turns), (turns, ROWS), (ROWS, turns)):
        assert expected == pytest.approx(losses(rows, valid), abs=1e-4)


def test_validation_rows_that_are_trained_on_are_told(tmp_path):
    for part, rows in ((1, ROWS[:6]), (2, ROWS[6:12])):
        text = "".join(json.dumps(dict(prompt=r["prompt"], completion=r["completion"])) + "\n" for r in rows)
        (tmp_path / f"part-{part}.jsonl").write_text(text, encoding="utf-8")
    with pytest.warns(UserWarning, match="6 of 6 validation rows"):
        finetune_sft(
            "tiny-small", f"{tmp_path}/part-*.jsonl", eval_data=tmp_path / "part-2.jsonl", max_steps=2
        )
