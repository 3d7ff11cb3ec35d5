"""The trainers of transformers and TRL with the guide's rules, and with losses that a lesson hands in."""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import trl
from accelerate.utils import broadcast_object_list
from datasets import Dataset, IterableDataset, load_from_disk
from peft import get_peft_model
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from ftguide.engine.checkpoints import make_room
from ftguide.engine.environment import processes
from ftguide.engine.files import fingerprint, write_atomic
from ftguide.engine.forwards import give_own_scores, own_scores, scored_only
from ftguide.engine.training_data import is_streamed
from ftguide.engine.unpadded import last_states
from ftguide.models import collate, plain_head, scored_states

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TRL says that this part is experimental
    from trl.experimental.gold import GOLDConfig as GOLDConfig
    from trl.experimental.gold import GOLDTrainer as TRLGoldTrainer


class TrainingError(RuntimeError):
    "Training cannot go on; the message says at which step and what to change."


class LengthSampler:
    """Rows of similar length side by side, so that little is padded.

    Shuffled anew each epoch, from the seed and the epoch alone."""

    def __init__(self, lengths: list[int], batch_size: int, seed: int):
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        chance = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=chance))


class SafeTrainer:
    """Repeatable order, finite losses, whole checkpoints: stands before a trainer of transformers or TRL.

    `class Mine(SafeTrainer, transformers.Trainer)` is one with these rules."""

    def _get_train_sampler(self, train_dataset=None):
        data = self.train_dataset if train_dataset is None else train_dataset
        by_length = self.args.train_sampling_strategy == "group_by_length"
        if not by_length or not hasattr(data, "column_names") or not hasattr(data, "__len__"):
            return super()._get_train_sampler(train_dataset)
        columns = [data[c] for c in data.column_names if c.endswith("ids")]
        lengths = [sum(map(len, row)) for row in zip(*columns)]
        a_step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthSampler(lengths, a_step, self.args.seed)

    def _get_eval_sampler(self, eval_dataset):
        return torch.utils.data.SequentialSampler(eval_dataset)  # predictions in the order of the rows

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        if torch.isfinite(loss).all():
            return loss
        raise TrainingError(
            f"step {self.state.global_step + 1}: the loss is {loss.item()}, and no step was taken. "
            f"The batch begins with {self._beginning(inputs)!r}. "
            f"Look at these rows, or lower the learning rate (it is {self.args.learning_rate:g})"
        )

    def _beginning(self, inputs: dict) -> str:
        ids = next((v for k, v in inputs.items() if k.endswith("input_ids")), None)
        if ids is None:
            return ""
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        return tokenizer.decode(ids[0], skip_special_tokens=True)[:80]

    def _save_checkpoint(self, model, trial):
        if not self._finite(model):
            raise TrainingError(
                f"step {self.state.global_step}: weights are not finite; "
                f"lower the learning rate (it is {self.args.learning_rate:g})"
            )
        # transformers would delete by the clock; KeepCheckpoints does it by the step
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        if self.args.should_save:
            make_room(self.args.output_dir, limit, self.state.best_model_checkpoint)
        try:
            super()._save_checkpoint(model, trial)
        except Exception as e:
            raise TrainingError(
                f"step {self.state.global_step}: the checkpoint could not be written ({e}). "
                "The one before it is whole; mend this, and resume=True goes on from there"
            ) from e
        finally:
            self.args.save_total_limit = limit

    def _finite(self, model) -> bool:
        "Are all trained weights finite, in all processes?"
        trained = [p for p in model.parameters() if p.requires_grad]
        own = [getattr(p, "to_local", lambda p=p: p)() for p in trained]  # of a slice, this process's part
        finite = torch.tensor(all(torch.isfinite(p).all() for p in own), device=self.accelerator.device)
        return bool(self.accelerator.gather(finite).all())


ROUTERS = ("output_router_logits", "router_aux_loss_coef")  # settings of a mixture of experts


@contextmanager
def router_settings(model) -> Iterator[None]:
    "A mixture's settings are afterwards what they were: TRL writes into its config, and would leave it so."
    config = model.config.get_text_config()
    before = {name: getattr(config, name) for name in ROUTERS if hasattr(config, name)}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def say_balance(trainer) -> None:
    "One line, for a mixture of experts: its loss holds how evenly the experts are used."
    if getattr(trainer, "aux_loss_enabled", False) and processes()[0] == 0:
        print(
            f"{type(trainer.model).__name__} is a mixture of experts: its loss also holds how evenly they "
            f"are used, times {trainer.router_aux_loss_coef:g}; router_aux_loss_coef=0.0 leaves that out",
            file=sys.stderr,
            flush=True,
        )


class SFTTrainer(SafeTrainer, trl.SFTTrainer):
    "TRL's SFTTrainer with the lesson's loss where that is the same and faster: on a CPU, for a plain model."

    def __init__(
        self,
        *args,
        loss: Callable | None = None,  # (hidden states, labels, output layer, count) -> scalar; None is TRL's
        **kwargs,
    ):
        self.lesson_loss = loss
        with router_settings(kwargs["model"]):
            super().__init__(*args, **kwargs)
        say_balance(self)
        give_own_scores(self.model)

    def _prepare_dataset(self, dataset, processing_class, args, packing, *more):
        "Rows come in tokens (`training_data.dataset`): TRL packs them, and cuts those that are too long."
        in_tokens = isinstance(dataset, Dataset) and "input_ids" in dataset.column_names
        if in_tokens and not packing and _fits(dataset["input_ids"], args.max_length):
            return dataset.shuffle(args.seed) if args.shuffle_dataset else dataset
        return super()._prepare_dataset(dataset, processing_class, args, packing, *more)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if return_outputs or not self._is_plain(model):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.model.training:
            seen = inputs.get("attention_mask")
            self._total_train_tokens += inputs["input_ids"].numel() if seen is None else seen.sum().item()
        passed = {k: v for k, v in inputs.items() if k not in ("labels", "use_cache")}
        with self.accelerator.autocast():  # accelerate wraps the whole model's forward, not the base model's
            states = last_states(model, passed)
            return self.lesson_loss(states, inputs["labels"], model.lm_head, num_items_in_batch)

    def _is_plain(self, model) -> bool:
        "Would TRL compute nothing but the loss that was handed in?"
        return (
            self.lesson_loss is not None
            and self.args.use_cpu
            and self.args.loss_type == "nll"
            and self.accelerator.num_processes == 1
            and self.label_smoother is None
            and not self.aux_loss_enabled
            and plain_head(model)
        )


@dataclass
class MarkedAnswers:
    "Batches of a TRL collator, in which an answer's tokens count where they are marked: a user's do not."

    collator: Callable  # of pairs or of thumbs

    def __call__(self, examples: list[dict]) -> dict:
        marked = [
            {name.replace("_mask", "_ids"): marks for name, marks in row.items() if name.endswith("_mask")}
            | {"prompt_ids": [0] * len(row["prompt_ids"]), "label": row.get("label")}
            for row in examples
        ]  # in the place of tokens, to be cut and padded alike
        batch, marks = self.collator(examples), self.collator(marked)
        for name in ("", "KL_"):
            if f"{name}completion_mask" in batch:
                batch[f"{name}completion_mask"] *= marks[f"{name}input_ids"]
        return batch


def _fits(ids: Iterable[list[int]], max_length: int | None) -> bool:
    return max_length is None or all(len(row) <= max_length for row in ids)


class ReferenceTrainer(SafeTrainer):
    """What DPO and KTO share: the reference is the model they start from, and scores are projected once.

    Rows come in tokens (`training_data.dataset`). On a CPU only scored positions are projected. A second
    model is held in memory only where its numbers cannot be computed before the training, and no longer than
    it is needed."""

    def __init__(self, model, args, train_dataset, peft_config=None, **kwargs):
        alone = peft_config is not None or not (is_streamed(train_dataset) or _sliced(args))
        super().__init__(
            model=model,
            ref_model=None if alone else copy.deepcopy(model),
            args=args,
            train_dataset=train_dataset,
            peft_config=peft_config,
            **kwargs,
        )
        if self.precompute_ref_logps:
            self.ref_model = None  # its numbers are kept
        say_balance(self)

    def train(self, *args, **kwargs):
        with self._scored_only():
            return super().train(*args, **kwargs)

    def _precompute_ref_logps(self, dataset, name, batch_size):
        with self._scored_only():
            return super()._precompute_ref_logps(dataset, name, batch_size)

    @property
    def data_collator(self) -> MarkedAnswers:
        return self._data_collator

    @data_collator.setter
    def data_collator(self, collator: Callable) -> None:
        self._data_collator = MarkedAnswers(collator)

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        marks = [name.replace("_ids", "_mask") for name in self._signature_columns if name.endswith("_ids")]
        self._signature_columns = list(dict.fromkeys([*self._signature_columns, *marks]))

    @contextmanager
    def _scored_only(self) -> Iterator[None]:
        with ExitStack() as stack:
            for model in (self.model, self.ref_model):
                if model is not None:
                    stack.enter_context(scored_only(model) if self.args.use_cpu else own_scores(model))
            yield


def _with_answers(dataset: Dataset | IterableDataset, max_length: int | None):
    "Without the rows of which a cut leaves the prompt alone, as TRL does it. `preflight` has spoken of them."
    if max_length is None or is_streamed(dataset) or _fits(dataset["prompt_ids"], max_length - 1):
        return dataset  # a stream stops at a row that is too long
    return dataset.filter(
        lambda prompts: [len(ids) < max_length for ids in prompts], input_columns="prompt_ids", batched=True
    )


def _sliced(args) -> bool:
    """Does FSDP slice the weights?

    TRL then computes the reference from a second model, and would load it by the name in the config: the
    checkpoint before SFT."""
    return bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


class KTOTrainer(ReferenceTrainer, trl.KTOTrainer):
    "TRL's KTOTrainer with the guide's rules."

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        """Each prompt gets the answer of the row before it in its batch, to estimate the KL from.

        As in TRL, which calls the column `KL_completion_ids`."""
        dataset = _with_answers(dataset, args.max_length)
        if self.calculate_KL:
            n, size = len(dataset), args.per_device_train_batch_size
            before = [i - 1 if i % size else min(i + size, n) - 1 for i in range(n)]
            for name in ("completion_ids", "completion_mask"):
                answers = dataset[name][:]
                dataset = dataset.add_column(f"KL_{name}", [answers[i] for i in before])
        return dataset


class DPOTrainer(ReferenceTrainer, trl.DPOTrainer):
    "TRL's DPOTrainer with the guide's rules; the reference's log-probabilities can be kept in a folder."

    COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")

    def __init__(
        self,
        *args,
        cache: str | Path | None = None,  # the folder; None keeps nothing
        **kwargs,
    ):
        self.cache = cache
        super().__init__(*args, **kwargs)

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        return dataset if args.truncation_mode == "keep_end" else _with_answers(dataset, args.max_length)

    def _precompute_ref_logps(self, dataset, name, batch_size):
        if self.accelerator.num_processes == 1 and not self.cache:
            return super()._precompute_ref_logps(dataset, name, batch_size)
        file = self._cache_file(dataset) if self.cache else None
        known = _of_first(file and file.exists() and json.loads(file.read_text(encoding="utf-8")))
        values = known or self._computed(dataset, name, batch_size)
        if not known and file and self.accelerator.is_main_process:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, json.dumps(values))
        for column in self.COLUMNS:
            dataset = dataset.add_column(column, values[column])
        return dataset

    def _cache_file(self, dataset: Dataset) -> Path:
        "Named by the rows, and by all that the numbers depend on beside them."
        config = (self.ref_model or self.model).config.to_dict()
        for name in ("_name_or_path", "transformers_version"):
            config.pop(name, None)
        decides = [
            self._precompute_model_hash,
            config,
            repr(self.data_collator),  # it cuts
            self.ld_alpha,
            self.accelerator.mixed_precision,
            self.args.tf32,
        ]
        return Path(self.cache) / f"reference-{fingerprint([*decides, *dataset])}.json"

    def _computed(self, dataset: Dataset, name: str, batch_size: int) -> dict:  # column -> numbers
        """TRL's numbers.

        It hands them from one process to the others through the data set's folder, so that has to be one
        folder."""
        with tempfile.TemporaryDirectory() as folder:
            shared = _of_first(folder)
            if self.accelerator.num_processes > 1:
                if self.accelerator.is_main_process:
                    dataset.save_to_disk(shared)
                self.accelerator.wait_for_everyone()
                dataset = load_from_disk(shared)
            made = super()._precompute_ref_logps(dataset, name, batch_size)
            values = {column: made[column][:] for column in self.COLUMNS}
            self.accelerator.wait_for_everyone()
        return values


def _of_first(value):
    "What the first process says."
    return broadcast_object_list([value], from_process=0)[0]


class DistillationTrainer(SafeTrainer, trl.DistillationTrainer):
    "TRL's DistillationTrainer, where the student writes, with the guide's rules."


class GOLDTrainer(SafeTrainer, TRLGoldTrainer):
    "TRL's experimental GOLDTrainer, for a teacher with other tokens, with the guide's rules."


class SoftLabelTrainer(SafeTrainer, Trainer):
    "A student that learns from written text and soft labels; both terms of its loss are logged."

    def __init__(
        self,
        model,
        args: TrainingArguments,
        processing_class,  # the tokenizer
        *,
        loss: Callable,  # (states, output layer, targets, soft labels, count=) -> loss, soft term, hard term
        labels: Callable | None,  # (numbers of the rows, batch) -> soft labels; None where only text teaches
        peft_config=None,
        **kwargs,
    ):
        self.lesson_loss, self.soft_labels = loss, labels
        self.terms = []  # (step, soft term, hard term) of each batch since the last log
        if peft_config is not None:
            torch.manual_seed(args.seed)
            model = get_peft_model(model, peft_config)
        collator = partial(_numbered_batch, processing_class.pad_token_id)
        super().__init__(model, args, processing_class=processing_class, data_collator=collator, **kwargs)
        self.model_accepts_loss_kwargs = True  # the loss counts the tokens of an accumulated batch

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        batch = {name: tensor for name, tensor in inputs.items() if name != "row"}
        with self.accelerator.autocast():  # of the student and its teacher
            states, head, targets = scored_states(model, batch)
            labels = self.soft_labels(inputs["row"].tolist(), batch) if self.soft_labels else None
            loss, *terms = self.lesson_loss(states, head, targets, labels, count=num_items_in_batch)
        share = self._share(model, num_items_in_batch)
        if model.training:
            self.terms.append((self.state.global_step, *(share * term.item() for term in terms)))
        return (share * loss, {}) if return_outputs else share * loss

    def _share(self, model, count) -> int:
        "The count is that of all processes, and their gradients are averaged."
        everywhere = model.training and count is not None and self.args.average_tokens_across_devices
        return self.accelerator.num_processes if everywhere else 1

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def log(self, logs, *args, **kwargs):
        if "loss" in logs and self.terms:
            logs |= self._mean_terms()
        super().log(logs, *args, **kwargs)

    def _mean_terms(self) -> dict:
        "Like the loss, terms are summed over a step's batches, and averaged over steps and processes."
        steps, *terms = zip(*self.terms)
        self.terms.clear()
        sums = torch.tensor([sum(term) for term in terms], device=self.accelerator.device)
        means = self.accelerator.gather(sums).view(-1, 2).mean(0) / len(set(steps))
        return dict(zip(("soft", "hard"), means.tolist()))


def _numbered_batch(pad_token_id: int, rows: list[dict]) -> dict:
    batch = collate([(row["input_ids"], row["labels"]) for row in rows], pad_token_id)
    return {**batch, "row": torch.tensor([row["row"] for row in rows])}
