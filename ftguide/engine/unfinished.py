"""What a stage that was stopped leaves, so that it goes on: rows it had made, checkpoints, trained models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftguide.engine.files import read_json, write_atomic
from ftguide.models import LM, load, save


class Unfinished:
    "A folder for the work of one stage until the stage is done; whoever runs the stage deletes it."

    def __init__(self, folder: str | Path | None):  # None keeps nothing
        self.folder = None if folder is None else Path(folder)

    def rows(
        self,
        name: str,
        make: Callable[[], Any],  # -> rows, or lists of them: what JSON can write
    ) -> Any:
        "What `make` returns, or what it returned before the stage was stopped."
        if self.folder is None:
            return make()
        file = self.folder / f"{name}.json"
        if not file.exists():
            made = json.dumps(make(), ensure_ascii=False)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(file, made)
        return read_json(file)

    def model(
        self,
        name: str,
        train: Callable[..., LM],  # (output_dir=, resume=) -> LM
    ) -> LM:
        "What `train` returns: gone on with from its checkpoints, or loaded where it was trained already."
        if self.folder is None:
            return train()
        whole, checkpoints = self.folder / name, self.folder / f"{name}.checkpoints"
        if not whole.is_dir():
            save(train(output_dir=checkpoints, resume=True), whole)
        shutil.rmtree(checkpoints, ignore_errors=True)
        return load(whole)
