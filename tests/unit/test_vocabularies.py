"The same ids are not yet the same tokenizer: other merges cut a text into other tokens."

import copy
import json

import pytest
from letters import Letters
from tokenizers import Tokenizer

from ftguide.engine.preflight import preflight
from ftguide.engine.vocabularies import (
    cut_differently,
    different_tokens,
    merges,
    probed,
    vocabulary_fingerprint,
)
from ftguide.models import PLAIN_TEMPLATE, load


@pytest.fixture(scope="module")
def small():
    return load("tiny-small")


def with_model(tokenizer, change):
    "The same tokenizer with another `model` in its description."
    other = copy.deepcopy(tokenizer)
    described = json.loads(other.backend_tokenizer.to_str())
    change(described)
    other._tokenizer = Tokenizer.from_str(json.dumps(described))
    return other


def without_first_merge(described):
    described["model"]["merges"] = described["model"]["merges"][1:]


def digits_apart(described):
    digits = dict(type="Digits", individual_digits=True)
    described["pre_tokenizer"] = dict(type="Sequence", pretokenizers=[digits, described["pre_tokenizer"]])


@pytest.mark.parametrize("change", [without_first_merge, digits_apart])
def test_the_same_ids_and_other_cuts(small, change):
    other = with_model(small.tokenizer, change)
    assert different_tokens(small.tokenizer, other) == []
    if probed(other) != probed(small.tokenizer) or change is without_first_merge:
        assert cut_differently(small.tokenizer, other)
        assert vocabulary_fingerprint(other) != vocabulary_fingerprint(small.tokenizer)
    same = with_model(small.tokenizer, lambda described: None)
    assert cut_differently(small.tokenizer, same) == ""
    assert vocabulary_fingerprint(same) == vocabulary_fingerprint(small.tokenizer)


def test_a_student_with_other_merges_is_refused(small):
    student = small.copy("student")
    student.tokenizer = with_model(small.tokenizer, without_first_merge)
    rows = [dict(prompt=f"product: mug {i}") for i in range(60)]
    with pytest.raises(ValueError, match="teacher and student have different tokenizers"):
        preflight(student, rows, "distill", teacher=small)
    preflight(small.copy("same"), rows, "distill", teacher=small)
    preflight(student, rows, "distill", teacher=small, alpha=0)


def test_marks_of_training_make_no_other_tokenizer(small):
    one, other = copy.deepcopy(small.tokenizer), copy.deepcopy(small.tokenizer)
    one.chat_template = PLAIN_TEMPLATE
    other.chat_template = PLAIN_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    assert vocabulary_fingerprint(one) == vocabulary_fingerprint(other)
    other.chat_template += " "
    assert vocabulary_fingerprint(one) != vocabulary_fingerprint(other)


def test_merges_are_pairs_in_their_order(small):
    found = merges(small.tokenizer)
    assert len(found) > 500 and all(len(pair) == 2 for pair in found)
    assert merges(Letters()) == []
