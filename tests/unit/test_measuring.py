"What measures a training: memory of work, and rows and models of a given size."

import mmap
import sys
import time

import pytest

from ftguide.engine.measuring import peak_memory, random_model, random_rows, random_words
from ftguide.models import encode, load


@pytest.mark.skipif(sys.platform != "linux", reason="how a C library keeps memory differs")
def test_the_peak_is_seen_although_the_memory_is_given_back():
    def work():
        held = mmap.mmap(-1, 80_000_000)  # bytes of our own; the allocator may have some left to give
        held.write(b"x" * 80_000_000)
        time.sleep(0.5)  # the memory is looked at while the work goes on, also on a busy machine
        return len(held)

    size, peak = peak_memory(work)
    assert size == 80_000_000 and 60_000_000 < peak < 200_000_000


@pytest.mark.parametrize(
    ("method", "columns"),
    [("sft", {"completion"}), ("dpo", {"chosen", "rejected"}), ("distill", {"completion"})],
)
def test_rows_have_the_columns_of_the_method_and_are_not_too_long(method, columns):
    tokenizer = load("tiny-small").tokenizer
    rows = random_rows(tokenizer, method, 3, 96)
    assert len(rows) == 3
    for row in rows:
        assert set(row) == {"prompt", *columns}
        assert all(len(encode(tokenizer, row["prompt"], row[column])[0]) <= 96 for column in columns)
    assert random_words(5, 1) == random_words(5, 1) != random_words(5, 2)


def test_a_random_model_has_the_shape_that_was_asked_for():
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    model = random_model({**sizes, "vocab_size": 96, "tie_word_embeddings": True})
    assert model.config.num_hidden_layers == 2
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert all((weight == 1).all() for weight in model.parameters() if weight.ndim == 1)
