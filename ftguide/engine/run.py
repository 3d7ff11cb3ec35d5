"`Run`: the one place that trains."

# A stage reads its rows, refuses what cannot go well, and hands them to a `Run`. It has checked the settings
# and made the copy to train; it finds the checkpoint to go on from, builds the trainer, trains, and returns
# an `LM`.

from __future__ import annotations

import math
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments

from ftguide.engine.adapters import adapter, merged
from ftguide.engine.callbacks import (
    KeepCheckpoints,
    ProgressCallback,
    StopAfterStep,
    early_stopping,
    silent,
)
from ftguide.engine.checkpoints import check_free, last_checkpoint
from ftguide.engine.environment import processes
from ftguide.engine.files import fingerprint, folder_lock
from ftguide.engine.forwards import original_forward
from ftguide.engine.model_folders import ModelError
from ftguide.engine.precision import bfloat16_by_default, say_precision
from ftguide.engine.threads import free_threads
from ftguide.engine.tokens import row_limit
from ftguide.engine.trainer_settings import (
    adapter_settings,
    as_json,
    check_config,
    deciding,
    model_fingerprint,
    planned_steps,
)
from ftguide.engine.vocabularies import vocabulary_fingerprint
from ftguide.models import LM, complete_tokenizer, load


@dataclass
class Run:
    """A training: checked settings, the copy to train, checkpoints to go on from, and the result as an `LM`.

    It goes on only from checkpoints of the same run: model, rows, adapter and every setting that decides the
    result are in their record. Logging, paths, workers, the device and how a step's rows are shared out among
    batches, gradient accumulation and processes are not."""

    model: LM | str | Path  # LM, folder or hub name; never changed
    name: str  # of the result
    method: str  # "sft", "dpo" … : written into the checkpoints
    learning_rates: tuple[float, float]  # defaults for models of 2 million and of 2 billion parameters
    epochs: float  # passes over the data
    learning_rate: float | None  # at the top; None takes it from the model's size
    batch_size: int  # rows a step
    seed: int = 0
    patience: int | None = 3  # stop after so many validations without a better one; None never stops early
    lora: bool | LoraConfig | None = None  # train an adapter and merge it
    output_dir: str | Path | None = None  # keep checkpoints here, at least four a run
    resume: bool = False  # go on from the last whole checkpoint in output_dir
    callbacks: tuple[TrainerCallback, ...] = ()
    config: dict = field(default_factory=dict)  # anything else of the trainer's config; wins over defaults
    decides: dict = field(default_factory=dict)  # what decides the result and is not in that config
    rows_meet: bool = False  # as in `deciding`
    start: LM = field(init=False, repr=False)  # the copy that is trained

    def __post_init__(self):
        check_positive(epochs=self.epochs, learning_rate=self.learning_rate, batch_size=self.batch_size)
        check_config(self.config)
        check_free(self.output_dir, self.resume)
        self.start = copy_for_training(self.model, self.name, self.lora)
        self.learning_rate = self.learning_rate or default_learning_rate(
            self.start.parameters, *self.learning_rates
        )

    @property
    def pace(self) -> dict:
        "Learning rate, epochs and batch size, as `preflight` takes them."
        return dict(learning_rate=self.learning_rate, epochs=self.epochs, batch_size=self.batch_size)

    def record(
        self,
        settings: TrainingArguments,
        rows: list,  # that were read; of a stream, the first ones
        eval_data=None,  # as the trainer takes it; None validates nothing
    ) -> dict:
        "What decides the result: a checkpoint with another record is of another run."
        validate = eval_data is not None
        found = dict(
            method=self.method,
            model=model_fingerprint(self.start),
            tokenizer=vocabulary_fingerprint(self.start.tokenizer),
            rows=fingerprint(rows),
            eval_rows=fingerprint(eval_data) if validate else None,
            patience=self.patience if validate else None,
            lora=adapter_settings(adapter(self.lora)),
        )
        return as_json(found | deciding(settings, validate, self.rows_meet) | self.decides)

    def arguments(
        self,
        config_class: type[TrainingArguments],
        folder: str | Path,
        count: int,  # rows; of a stream, those that were looked at
        validate: bool,  # is there validation data?
    ) -> TrainingArguments:
        "The settings as the trainer takes them."
        settings = training_arguments(
            self.start,
            folder,
            count,
            **self.pace,
            seed=self.seed,
            validate=validate,
            keep=bool(self.output_dir),
            config=self.config,
        )
        if "max_length" not in {f.name for f in fields(config_class)}:
            settings.pop("max_length")
        asked = bool(self.config.keys() & {"bf16", "fp16"})
        frozen = self.start.model.dtype == torch.bfloat16
        say_precision(self.name, self.start.parameters, settings["bf16"], asked, frozen)
        return config_class(**settings)

    def train(
        self,
        trainer_class: type[Trainer],  # a SafeTrainer
        config_class: type[TrainingArguments],
        data,  # as the trainer takes it
        eval_data=None,  # the same; None validates nothing
        *,
        rows: list,  # that were read, for the record; of a stream, the first ones
        count: int | None = None,  # rows in an epoch; as many as `rows` by default
        **trainer_arguments,  # of the trainer's class, such as its loss
    ) -> LM:
        "Train from the last checkpoint or from the beginning; an adapter is merged into the result."
        validate = eval_data is not None
        watching = [ProgressCallback(self.name), *early_stopping(validate, self.patience), *self.callbacks]
        with (
            tempfile.TemporaryDirectory() as scratch,
            original_forward(self.start.model),
            free_threads(self.name, self.start.parameters),
        ):
            folder = self.output_dir or scratch
            settings = self.arguments(config_class, folder, len(rows) if count is None else count, validate)
            record = self.record(settings, rows, eval_data) if self.output_dir else {}
            checkpoint = last_checkpoint(self.output_dir, self.resume, record)
            trainer = trainer_class(
                model=self.start.model,
                args=settings,
                train_dataset=data,
                eval_dataset=eval_data,
                processing_class=self.start.tokenizer,
                peft_config=adapter(self.lora),
                callbacks=watching,
                **trainer_arguments,
            )
            fit(trainer, checkpoint, record, keep=bool(self.output_dir))
        return self._result(trainer)

    def _result(self, trainer: Trainer) -> LM:
        "The trained model, whole and with its adapter merged."
        sliced = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
        model = gathered(trainer) if sliced else trainer.model
        if model is None:
            return self.start  # another process has the result
        model = merged(model) if self.lora else model
        start, history = self.start, trainer.state.log_history
        return complete_tokenizer(LM(model.eval(), start.tokenizer, start.name, history, start.origin))


def fit(
    trainer: Trainer,  # a SafeTrainer
    checkpoint: str | None,  # go on from here
    record: dict,  # what decides the result
    keep: bool,  # are checkpoints kept?
) -> None:
    "Train; each checkpoint is marked when it is whole, and Ctrl-C ends after the step with one."
    stop = StopAfterStep()
    silent(trainer).add_callback(KeepCheckpoints(record))
    trainer.add_callback(stop)
    for p in trainer.model.parameters():
        if p.requires_grad:  # trl makes adapters of 4-bit models bfloat16, where small steps are lost
            p.data = p.data.float()
    alone = folder_lock(trainer.args.output_dir) if keep and processes()[0] == 0 else nullcontext()
    with stop.listening(keep), alone:
        trainer.train(resume_from_checkpoint=checkpoint)
    if stop.asked:
        raise KeyboardInterrupt(
            f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}; "
            "the same call with resume=True (--resume) goes on from there"
        )


def gathered(trainer: Trainer):  # -> the model with all its weights; None in all processes but the first
    "FSDP and ZeRO-3 leave each process a part of every weight: the first process puts the parts together."
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    if processes()[0] > 0:
        return None
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    whole = type(base)(base.config)
    whole.generation_config = base.generation_config
    if base is not model:
        whole = get_peft_model(whole, model.peft_config["default"])
    whole.to(next(iter(weights.values())).dtype).load_state_dict(weights)
    return whole


def check_positive(**numbers: float | None) -> None:
    "ValueError names the first number that is not above 0 and finite; None is not checked."
    for key, value in numbers.items():
        if value is not None and not 0 < value < float("inf"):
            finite = " and finite" if value == float("inf") else ""
            raise ValueError(f"{key} must be above 0{finite}, not {value}")


def copy_for_training(
    model: LM | str | Path,  # LM, folder or hub name
    name: str,  # of the result
    lora: bool | LoraConfig | None = None,  # an adapter? Weights of 4 bits allow nothing else: ModelError
) -> LM:
    "A copy to train, in float32; under an adapter, weights that were loaded in fewer bits stay as they are."
    lm = load(model)
    quantized = getattr(lm.model, "is_quantized", False)
    if quantized and not lora:
        raise ModelError(
            f"{lm.name} has weights of 4 bits, which no step could change; "
            "lora=True (--lora) trains an adapter on them"
        )
    lm = lm.copy(name)
    if not (quantized or (lora and lm.model.dtype == torch.bfloat16)):
        lm.model.float()
    return lm


def default_learning_rate(
    parameters: int,  # size of the model
    at_2m: float,  # what worked for 2 million parameters, measured in this guide
    at_2b: float,  # what is customary for 2 billion
) -> float:
    "A first learning rate between two anchors, on a log-log line: larger models want smaller steps."
    share = (math.log(parameters) - math.log(2e6)) / (math.log(2e9) - math.log(2e6))
    share = min(max(share, 0), 1)
    return math.exp((1 - share) * math.log(at_2m) + share * math.log(at_2b))


def training_defaults(
    parameters: int = 0,  # of the model that is trained
) -> dict:
    "Arguments of transformers' trainers that fit this machine and the model."
    cuda = torch.cuda.is_available()
    return dict(
        use_cpu=not cuda,
        bf16=bfloat16_by_default(parameters),
        fp16=False,
        gradient_checkpointing=cuda,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=cuda,
        logging_first_step=True,
    )


def training_arguments(
    lm: LM,
    folder: str | Path,
    rows: int,
    *,
    epochs: float,
    batch_size: int,
    learning_rate: float,
    seed: int,
    validate: bool,  # is there validation data?
    keep: bool,  # write checkpoints into the folder?
    config: dict,  # the caller's own settings, which win
) -> dict:  # arguments of transformers.TrainingArguments
    "What the trainers have in common."
    if processes()[1] > 1 and not keep:
        raise ValueError(
            "several processes need one output_dir: it is where all of them find the best model "
            "and the last checkpoint"
        )
    fitting = training_defaults(lm.parameters)
    return {
        **fitting,
        "bf16": fitting["bf16"] and not config.get("fp16"),
        "output_dir": str(folder),
        "num_train_epochs": epochs,
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": 4 * batch_size,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "max_length": row_limit(lm, config),
        "seed": seed,
        "logging_steps": max(planned_steps(rows, epochs, batch_size, config)[0] // 50, 1),
        **milestones(epochs, validate, keep, config),
        **config,
    }


def milestones(
    epochs: float,
    validate: bool,  # is there validation data?
    keep: bool,  # are checkpoints kept?
    config: dict,  # the caller's own settings
) -> dict:  # arguments of transformers.TrainingArguments
    """When to validate and to keep a checkpoint: twice an epoch and at least four times a run.

    The best model can only be restored where both fall on the same step."""
    when = dict(strategy="steps", steps=1 / max(4, round(2 * epochs)))
    when |= {k: config[f"eval_{k}"] for k in when if f"eval_{k}" in config}
    validate = validate and when["strategy"] != "no"
    settings = dict(
        eval_strategy=when["strategy"] if validate else "no",
        eval_steps=when["steps"],
        save_strategy=when["strategy"] if keep or validate else "no",
        save_steps=when["steps"],
        save_total_limit=2,
        save_only_model=not keep,
        restore_callback_states_from_checkpoint=True,
    )
    if validate:
        settings |= dict(
            load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=False
        )
    return settings
