"Students of all kinds of teachers: what they learn, what a row keeps, what is refused."

import json

import pytest
import torch
from datasets import IterableDataset
from endpoints import QUESTIONS, Server
from formulas import plain_distillation_loss
from ranks import two_ranks
from stages import replies_that_end, weights

from ftguide.distillation import DistillationPipeline, distill, make_student
from ftguide.engine import teachers
from ftguide.engine.cache import CachedTeacher, write_cache
from ftguide.engine.generation import Answer
from ftguide.engine.run import Run
from ftguide.engine.teachers import LogitTeacher, TextTeacher
from ftguide.engine.tokens import context_length
from ftguide.models import collate, encode, load, reply, save, scored_logits

ROWS = [dict(prompt=f"How much is {i} + {i % 7}?") for i in range(40)]


@pytest.fixture(autouse=True)
def answers_are_whole(monkeypatch):
    "The teacher is not taught to end, and its answers are short."
    monkeypatch.setattr(teachers, "replies", replies_that_end)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3", "phi3", "gpt2", "gemma2", "gemma3_text"])
def test_first_loss_is_the_plain_computation_for_every_architecture(kind):
    from stages import FEW as labelled
    from stages import family

    teacher, student = load("tiny"), family(kind)
    after = distill(
        teacher, student, labelled[:4], epochs=1, batch_size=4, warmup_steps=0, learning_rate=1e-3
    )
    batch = collate(
        [encode(student.tokenizer, r["prompt"], r["completion"]) for r in labelled[:4]],
        student.tokenizer.pad_token_id,
    )
    with torch.no_grad():
        (s, targets), (t, _) = (scored_logits(lm.model, batch) for lm in (student, teacher))
    first = next(h for h in after.history if "loss" in h)
    assert first["loss"] == pytest.approx(
        plain_distillation_loss(s.double(), t.double(), targets, 0, 2.0, 0.7).item(), rel=1e-4
    )
    assert first["soft"] + first["hard"] == pytest.approx(first["loss"], rel=1e-4)
    assert not torch.equal(weights(after), weights(student))


def test_cache_gives_the_same_student_and_resumes(tmp_path):
    plainly = distill("tiny", "tiny-small", ROWS, epochs=1, max_new_tokens=16)
    cached = distill("tiny", "tiny-small", ROWS, epochs=1, max_new_tokens=16, cache=tmp_path / "c")
    first, last = (
        ([h["loss"] for h in lm.history if "loss" in h][i] for lm in (plainly, cached)) for i in (0, -1)
    )
    for losses, rel in ((list(first), 0.05), (list(last), 0.1)):
        assert losses[1] == pytest.approx(losses[0], rel=rel)  # 40 rows: other draws, other steps
    kept = CachedTeacher(tmp_path / "c")
    assert (
        torch.equal(weights(distill(kept, "tiny-small", epochs=1)), weights(cached))
        and kept.bytes_per_token < 1000
    )  # short answers: half of it are the prompts
    with pytest.raises(ValueError, match="holds another cache.*teacher was"):
        write_cache("tiny-small", ROWS, tmp_path / "c", max_new_tokens=16)
    with pytest.raises(ValueError, match="written for temperature 2, not 3"):
        distill(kept, "tiny-small", temperature=3.0)
    with pytest.raises(ValueError, match="the student likes"):
        distill(kept, "tiny-small", divergence="jsd")
    with pytest.raises(ValueError, match="leave corpus"):
        distill(kept, "tiny-small", ROWS)


@pytest.mark.parametrize("streams", [False, True])
def test_an_answer_that_was_cut_is_not_taught(monkeypatch, streams):
    taught, rows = [], ROWS[:16]
    said = [Answer(str(i), cut=i % 4 == 0) for i in range(16)]

    def encoded(self, tokenizer, *parts, max_new_tokens):
        answered = self.answers(*parts, max_new_tokens=max_new_tokens)
        taught.extend(row["completion"] for row in answered[0])
        return [teachers.encoded(tokenizer, part) for part in answered]

    monkeypatch.setattr(teachers, "replies", lambda lm, prompts, *a, **k: said[: len(prompts)])
    monkeypatch.setattr(LogitTeacher, "encoded_answers", encoded)
    corpus = IterableDataset.from_generator(lambda: iter(rows)) if streams else rows
    with pytest.warns(UserWarning, match="4 of 16 answers were cut at max_new_tokens=96, and are not taught"):
        distill("tiny", "tiny-small", corpus, max_steps=1, batch_size=4)
    assert taught[:12] == [str(i) for i in range(16) if i % 4]
    monkeypatch.setattr(teachers, "replies", lambda lm, prompts, *a, **k: [Answer("x", True)] * len(prompts))
    if not streams:
        with pytest.raises(ValueError, match="all empty or cut"), pytest.warns(UserWarning, match="16 of 16"):
            distill("tiny", "tiny-small", rows, epochs=1)


def test_a_cut_answer_is_not_kept_on_disk(tmp_path, monkeypatch):
    said = [Answer(str(i), cut=i == 2) for i in range(4)]
    monkeypatch.setattr(teachers, "replies", lambda lm, prompts, *a, **k: said)
    with pytest.warns(UserWarning, match="1 of 4 answers were empty or cut"):
        kept = write_cache("tiny-small", ROWS[:4], tmp_path)
    assert kept.numbers == [0, 1, 3]


def swapped():
    lm = load("tiny-small")
    get = lm.tokenizer.get_vocab()
    lm.tokenizer.get_vocab = lambda: {t: {7: 8, 8: 7}.get(i, i) for t, i in get.items()}
    return lm


def test_same_size_and_other_tokens_are_refused(tmp_path):
    with pytest.raises(ValueError, match="different tokenizers"):
        distill("tiny", swapped(), ROWS)
    with pytest.raises(ValueError, match="other tokens"):
        distill(write_cache("tiny", ROWS, tmp_path, max_new_tokens=8), swapped())


@pytest.mark.parametrize(
    "knobs,message",
    [
        (dict(alpha=1.5), "alpha must lie"),
        (dict(temperature=0.0), "temperature must be above 0"),
        (dict(divergence="kl"), "divergence must be"),
        (dict(divergence=2), "divergence must be"),
        (dict(on_policy=True, alpha=0.5), "alpha mixes in"),
        (dict(on_policy=True, data=[dict(prompt="Hi", completion="Hello")]), "reads no written answers"),
        (dict(corpus=[]), "no rows"),
        (dict(corpus=None), "corpus is missing"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant(knobs, message):
    with pytest.raises(ValueError, match=message):
        distill("tiny", "tiny-small", **dict(dict(corpus=ROWS), **knobs))


def test_a_larger_student_is_warned_of():
    with pytest.warns(UserWarning, match="saves nothing"):
        distill("tiny-small", "tiny", ROWS[:8], epochs=1, max_new_tokens=4)


@pytest.mark.parametrize(
    "knobs",
    [
        dict(gradient_accumulation_steps=2),
        dict(lora=True),
        dict(data=[dict(prompt="Hi", completion="Hello")] * 9),
        dict(
            data=[dict(messages=[dict(role="user", content="Hi"), dict(role="assistant", content="Hello")])]
            * 9,
            epochs=1,
        ),
        dict(alpha=0.0),
        dict(divergence="jsd"),
        dict(on_policy=True, max_new_tokens=4),
    ],
    ids=lambda k: next(iter(k)),
)
def test_other_ways_of_distilling(knobs):
    before = load("tiny-small")
    after = distill("tiny", before, ROWS[:16], **dict(dict(epochs=2, max_new_tokens=16), **knobs))
    assert (
        torch.isfinite(weights(after)).all()
        and not torch.equal(weights(after), weights(before))
        and type(after.model).__name__ == "LlamaForCausalLM"
    )


def test_accumulated_batches_weigh_tokens_equally():
    a, b = (
        distill(
            "tiny",
            "tiny-small",
            ROWS[:16],
            epochs=1,
            max_new_tokens=16,
            batch_size=s,
            gradient_accumulation_steps=n,
        )
        for s, n in ((16, 1), (4, 4))
    )
    assert (weights(a) - weights(b)).abs().max() < 1e-4
    logged = lambda lm: [[h[k] for k in ("step", "loss", "soft", "hard")] for h in lm.history if "soft" in h]
    assert logged(a)[0] == pytest.approx(logged(b)[0], rel=1e-4)
    more = logged(
        distill(
            "tiny",
            "tiny-small",
            ROWS[:16],
            epochs=3,
            max_new_tokens=4,
            batch_size=8,
            gradient_accumulation_steps=2,
            logging_steps=3,
        )
    )
    assert [step for step, *_ in more] == [1, 3]
    for _, loss, soft, hard in more:
        assert soft + hard == pytest.approx(loss, rel=1e-4)


def averaged_and_not(folder):
    rows = [dict(prompt=f"How much is {i} + 2?", completion="yes " * (i % 5 + 1)) for i in range(8)]
    pace = dict(max_steps=3, logging_steps=3, batch_size=2, gradient_accumulation_steps=2)
    for average in (True, False):
        how = dict(average_tokens_across_devices=average, output_dir=f"{folder}/{average}")
        distill("tiny", "tiny-small", rows, **how, **pace)


def test_several_processes_log_terms_that_add_up(tmp_path):
    assert two_ranks(averaged_and_not, str(tmp_path / "two")) == [0, 0]
    together, apart = (
        [
            h
            for h in json.loads((tmp_path / f"two/{average}/checkpoint-3/trainer_state.json").read_text())[
                "log_history"
            ]
            if "soft" in h
        ]
        for average in (True, False)
    )
    for a, b in zip(
        together, apart, strict=True
    ):  # a mean over all tokens, and one over the processes' means
        assert a["step"] == b["step"] and b["loss"] == pytest.approx(a["loss"], rel=0.2)
        for h in (a, b):
            assert h["soft"] + h["hard"] == pytest.approx(h["loss"], rel=1e-4)


def test_best_student_is_returned():
    lm = distill(
        "tiny", "tiny-small", ROWS[:16], epochs=4, max_new_tokens=16, eval_data=ROWS[16:24], patience=1
    )
    assert [h for h in lm.history if "eval_loss" in h]


def test_a_student_made_of_the_teachers_layers_learns(tmp_path):
    "Evenly spaced with the first and the last; saved and loaded it is the same, and it can be taught."
    teacher = load("tiny")
    student = make_student(teacher, 3, name="half")
    assert [student.name, student.model.config.num_hidden_layers] == ["half", 3]
    assert student.tokenizer is not teacher.tokenizer and teacher.model.config.num_hidden_layers == 6
    for place, number in enumerate((0, 2, 5)):
        ours, theirs = student.model.model.layers[place], teacher.model.model.layers[number]
        assert torch.equal(ours.mlp.up_proj.weight, theirs.mlp.up_proj.weight)
    again = load(save(student, tmp_path / "student"))
    prompts = ["How much is 2 + 3?", "What is a lamp?"]
    assert reply(again, prompts, 12) == reply(student, prompts, 12)
    corpus = [dict(prompt=f"How much is {i} + 1?") for i in range(16)]
    taught = distill(teacher, student, corpus, epochs=4, max_new_tokens=12)
    losses = [entry["loss"] for entry in taught.history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]


def test_the_layers_that_change_most_on_given_rows_are_kept():
    teacher = load("tiny").copy()
    idle = teacher.model.model.layers[2]
    with torch.no_grad():
        idle.self_attn.o_proj.weight.zero_()
        idle.mlp.down_proj.weight.zero_()
    student = make_student(teacher, 5, ROWS[:4])
    for place, number in enumerate((0, 1, 3, 4, 5)):
        ours, theirs = student.model.model.layers[place], teacher.model.model.layers[number]
        assert torch.equal(ours.mlp.up_proj.weight, theirs.mlp.up_proj.weight)
    prompts = [row["prompt"] for row in ROWS[:4]]
    assert reply(student, prompts, 12) == reply(teacher, prompts, 12)
    with pytest.raises(ValueError, match="data has no row with a prompt"):
        make_student(teacher, 5, [dict(text="only a text")])


@pytest.mark.parametrize("layers", [0, 7, -1, [], [0, 6], [2, 1], [1, 1], [-1, 2]])
def test_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(ValueError, match="layers must be a number from 1 to 6, or numbers of layers"):
        make_student("tiny", layers)


def test_another_tokenizer_behind_a_switch():
    "TRL's GOLD: the student learns from the probabilities of a teacher whose tokens are not its own."
    from stages import FEW as labelled
    from stages import family

    student = family("llama", own=True)
    with pytest.raises(ValueError, match="different tokenizers"):
        distill("tiny", student, labelled)
    after = distill("tiny", student, labelled[:16], cross_tokenizer="gold", epochs=30, learning_rate=1e-2)
    losses = [h["loss"] for h in after.history if "loss" in h]
    assert (
        losses[-1] < 0.6 * losses[0]
        and torch.isfinite(weights(after)).all()
        and not torch.equal(weights(after), weights(student))
    )
    talks = [dict(messages=[dict(role="user", content="Hi"), dict(role="assistant", content="Hello")])] * 4
    assert distill(
        "tiny", student, labelled[:4], data=talks, cross_tokenizer="gold", max_steps=1, learning_rate=1e-2
    ).history
    with pytest.raises(ValueError, match="no alpha, on_policy or cache"):
        distill("tiny", student, labelled, cross_tokenizer="gold", alpha=0.5)
    with pytest.raises(ValueError, match="None or 'gold'"):
        distill("tiny", student, labelled, cross_tokenizer="silver")


def taught(monkeypatch, *args, **knobs):  # what the student is to write, validation rows last
    said = []

    def seen(run, trainer, config, train, valid, **settings):
        said.extend(
            run.start.tokenizer.decode([t for t in r["labels"] if t != -100], skip_special_tokens=True)
            for r in [*train, *(valid or [])]
        )
        return run.start

    with monkeypatch.context() as m:
        m.setattr(Run, "train", seen)
        distill(*args, max_steps=1, max_new_tokens=4, **knobs)
    return said


def test_a_row_keeps_its_completion_whoever_the_teacher_is(monkeypatch, tmp_path):
    from ftguide.engine.training_data import streamed

    labelled = [dict(prompt=f"shown {i}", completion="by hand") for i in range(3)]
    with Server(lambda m: "by wire") as server:
        teacher = TextTeacher(server.endpoint())
        assert taught(
            monkeypatch,
            teacher,
            "tiny-small",
            labelled[:1] + QUESTIONS[:2],
            data=labelled[1:],
            eval_data=labelled[:1] + QUESTIONS[3:4],
        ) == ["by hand", "by wire", "by wire", "by hand", "by hand", "by hand", "by wire"]
        assert len(server.asked) == teacher.bill["requests"] == 3
        (tmp_path / "rows.jsonl").write_text(
            "".join(json.dumps(r) + "\n" for r in labelled[:1] + QUESTIONS[:2])
        )
        assert (
            taught(monkeypatch, teacher, "tiny-small", streamed(tmp_path / "rows.jsonl", "corpus"))
            == ["by hand", "by wire", "by wire"]
            and len(server.asked) == 5
        )
        line = DistillationPipeline(teacher, "tiny-small")
        data = line.teacher_label(QUESTIONS, output_format=".*wire")
        bill = dict(teacher.bill)
        assert (
            taught(monkeypatch, teacher, "tiny-small", data) == ["by wire"] * 12
            and len(server.asked) == 15
            and teacher.bill == bill
        )
    assert (
        taught(monkeypatch, "tiny", "tiny-small", QUESTIONS[:1], data=labelled)
        == reply(load("tiny"), [QUESTIONS[0]["prompt"]], 4) + ["by hand"] * 3
    )
    with pytest.warns(UserWarning, match="does not read the completions that 3 of the rows have"):
        distill("tiny", "tiny-small", QUESTIONS[:1] + labelled, on_policy=True, max_steps=1, max_new_tokens=4)


def test_what_trl_would_write_otherwise_is_refused_before_any_step():
    begun = [
        *QUESTIONS[:4],
        dict(prompt=[dict(role="user", content="a"), dict(role="assistant", content="b")]),
    ]
    for knobs in (dict(on_policy=True), dict(cross_tokenizer="gold")):
        with pytest.raises(ValueError, match="1 of 5 rows begin the answer in the prompt"):
            distill("tiny", "tiny-small", begun, max_steps=1, max_new_tokens=4, **knobs)
    room = context_length(load("tiny-small"))
    with pytest.raises(ValueError, match="4 of 4 prompts leave no room"):
        distill("tiny", "tiny-small", QUESTIONS[:4], on_policy=True, max_steps=1, max_new_tokens=room)
    with pytest.raises(ValueError, match="longer than the 12 tokens that training keeps"):
        distill(
            "tiny",
            "tiny-small",
            [dict(prompt="a", completion="b")] * 4 + [dict(prompt="a")],
            data=[dict(prompt="a", completion="b " * 9)],
            cross_tokenizer="gold",
            max_steps=1,
            max_new_tokens=4,
            max_length=12,
        )


def test_text_teacher_has_nothing_to_soften():
    teacher = TextTeacher("tiny")
    with pytest.raises(ValueError, match="no probabilities, so temperature and alpha"):
        distill(teacher, "tiny-small", ROWS, temperature=2.0, alpha=0.5)
    with pytest.raises(ValueError, match="only writes"):
        distill(teacher, "tiny-small", ROWS, on_policy=True)
    after = distill(teacher, "tiny-small", ROWS[:8], epochs=1, max_new_tokens=8)
    assert after.history[0]["soft"] == 0 and after.history[0]["hard"] > 0


def test_the_four_verbs(tmp_path):
    line = DistillationPipeline("tiny", "tiny-small", "{text}\n\nIn one line:")
    data = line.teacher_label([dict(text=f"A chair with {i} legs") for i in range(12)], max_new_tokens=8)
    assert data[3]["prompt"] == "A chair with 3 legs\n\nIn one line:" and data[3]["completion"]
    with pytest.raises(ValueError, match="call distill first"):
        line.evaluate(data)
    line.distill(data, epochs=1)
    report = line.evaluate(data, ["quality", "cost"])
    assert set(report.against) and line.cost_reduction > 0
    with pytest.raises(ValueError, match="not deployed: quality is .*; cost_reduction is .*20 is asked"):
        line.deploy_if(tmp_path / "m", quality=9.0)
    assert not (tmp_path / "m").exists()
    assert (line.deploy_if(tmp_path / "m", quality=-1.0, cost_reduction=0.0) / "model.safetensors").exists()
    with pytest.raises(ValueError, match="row 1 has no column 'text'"):
        line.teacher_label([dict(prompt="x")])


def test_the_four_verbs_say_what_is_missing(tmp_path):
    kept = write_cache("tiny-small", ROWS[:8], tmp_path / "c", max_new_tokens=4)
    line, rows = (
        DistillationPipeline(kept, "tiny-small"),
        [dict(prompt=r["prompt"], completion="no") for r in ROWS[:4]],
    )
    with pytest.raises(
        ValueError, match="answered already: leave teacher_label out, and call distill without data"
    ):
        line.teacher_label(ROWS)
    assert line.distill(epochs=1).history
    with pytest.raises(ValueError, match="call evaluate first"):
        print(line.cost_reduction)
    line.evaluate(rows, ["quality"])
    for ask_for in (lambda: line.cost_reduction, lambda: line.deploy_if(tmp_path / "m")):
        with pytest.raises(ValueError, match="no cost was measured: call evaluate again, with 'cost'"):
            ask_for()
    line.evaluate(
        rows, ["cost"], api=dict(usd_per_million_output_tokens=1.0, date="2026-01-01", source="a page")
    )
    with pytest.raises(ValueError, match="no quality was measured"):
        line.deploy_if(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_different_tokenizers_need_text():
    other = load("tiny-small")
    other.tokenizer.add_tokens(["brandnewtoken"])
    with pytest.raises(ValueError, match="alpha=0"):
        distill("tiny", other, [dict(prompt="How much is 1 + 1?")] * 24)


def test_validation_prompts_that_are_trained_on_are_told():
    how = dict(max_steps=1, max_new_tokens=4)
    with pytest.warns(UserWarning, match="3 of 4 validation rows"):
        distill("tiny", "tiny-small", ROWS[:8], eval_data=ROWS[5:9], **how)
