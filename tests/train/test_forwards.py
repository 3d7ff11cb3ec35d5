"A forward that was replaced for a block is put back, whatever happens in it."

import pytest
from stages import STAGES
from transformers import TrainerCallback

from ftguide.engine.forwards import original_forward
from ftguide.models import load


def test_a_forward_is_put_back_whatever_happens():
    model = load("tiny-small").copy().model
    with pytest.raises(RuntimeError), original_forward(model):
        model.forward = len
        raise RuntimeError
    assert "forward" not in model.__dict__


class Stop(TrainerCallback):
    "Keeps the model that is trained, and ends the training with an error."

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.model = model
        raise RuntimeError("stopped by the test")


@pytest.mark.parametrize("stage", STAGES)
def test_no_forward_is_left_replaced_when_a_training_fails(stage):
    make, rows, _ = STAGES[stage]
    stop = Stop()
    with pytest.raises(RuntimeError, match="stopped by the test"):
        make("tiny-small", rows, callbacks=(stop,))
    assert "forward" not in stop.model.__dict__
