"Models: the names they go by, what a folder gives back, and batches that change nothing."

import pytest

from ftguide.models import ModelError, completion_logps, context_length, load, reply, save


@pytest.fixture(scope="module")
def small():
    return load("tiny-small")


@pytest.mark.parametrize(
    "name",
    [
        "HuggingFaceTB/SmolLM2-1.7B",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "Qwen/Qwen2.5-0.5B",
        "gpt2",
        "owner/name",
    ],
)
def test_names_of_the_hub_are_looked_for_there(name):
    with pytest.raises(ModelError, match=r"cannot load '.*': it is not in the local cache"):
        load(name)


@pytest.mark.parametrize(
    "name", ["model.jsonl", "./nothing", "none/at/all", "~/nothing", "/nothing", r"runs\sft", "tiny "]
)
def test_names_of_folders_that_are_not_there(name):
    with pytest.raises(ModelError, match="no folder"):
        load(name)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(ModelError, match="rows.jsonl is a file; a model is a folder"):
        load(tmp_path / "rows.jsonl")


def test_home_is_found(small, tmp_path, monkeypatch):
    save(small, tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert load("~/mine").parameters == small.parameters


def test_the_training_log_comes_back(small, tmp_path):
    lm = small.copy("taught")
    lm.history = [dict(step=1, loss=2.5), dict(step=2, eval_loss=2.25)]
    folder = save(lm, tmp_path / "taught")
    assert (
        load(folder).history == lm.history
        and load(save(load(folder), tmp_path / "again")).history == lm.history
    )
    for spoilt in ('{"loss": 1}', "[1, 2]", "not JSON", "[" * 100_000):
        (folder / "history.json").write_text(spoilt)
        with pytest.warns(UserWarning, match="history.json is no training log and is left out"):
            assert load(folder).history == []
    (folder / "history.json").unlink()
    assert load(folder).history == []


def test_a_long_prompt_ends_no_other_answer(small):
    ids = small.tokenizer("product: mug\ncolour: green, size: 300 ml\n" * 99).input_ids
    long, short = small.tokenizer.decode(ids[: context_length(small) - 5]), "product: mug\nbrand:"
    counted = []
    together = reply(
        small, [long, short, long, short], 40, template=False, batch_size=2, progress=counted.append
    )
    assert (
        together == [reply(small, p, 40, template=False) for p in (long, short, long, short)]
        and len(small.tokenizer(together[1]).input_ids) > 5
    )
    assert counted == [2, 3, 4]


def test_every_prompt_has_its_completion(small):
    with pytest.raises(ValueError, match="2 prompts, 1 completions"):
        completion_logps(small, ["a", "b"], ["x"])


def test_pickled_weights_are_refused(tmp_path):
    save(load("tiny-small"), tmp_path / "m")
    (tmp_path / "m/model.safetensors").rename(tmp_path / "m/pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load(tmp_path / "m")
