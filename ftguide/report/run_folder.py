"""The whole journey in a folder: models, report.json and report.html, and a stopped run that goes on.

It stands here and not in the engine because it calls every stage: the engine knows no technique.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import torch

from ftguide.engine.bases import base_for
from ftguide.engine.environment import is_interactive
from ftguide.engine.files import fingerprint, folder_lock, read_json, write_atomic
from ftguide.engine.loading import SHIPPED
from ftguide.engine.tables import markdown
from ftguide.evaluation import Report
from ftguide.journey import EXAMPLES, Material, Stage, journey, load_material, verdict
from ftguide.models import LM, load, save
from ftguide.report.page import write_page

FOLDERS = {"SFT": "sft", "DPO": "dpo", "distilled": "student"}  # stage -> folder of its model
NEEDED = {"name", "history", "seconds", "report"}  # of a stage in report.json
ROWS = ("train", "valid", "test", "sheets", "pairs", "held_pairs", "corpus")  # of Material
WORK = ".unfinished"  # what a stage has done so far; deleted when the stage is in report.json
SETTINGS = ("base", "student", "example", "lang", "seed", "rows", "material", "knobs")  # two runs share all


def run(
    out: str | Path,  # new folder for the models and the report
    base: LM
    | str
    | Path
    | None = None,  # model to start from; by default the example's, or as `base_for` says
    student: LM | str | Path | int | None = None,  # as in `journey`; by default the example's, see `settings`
    sft: str | Path | list | None = None,  # rows (or a file) of prompt and completion, or messages
    pairs: str | Path | list | None = None,  # rows (or a file) of prompt, chosen and rejected
    corpus: str | Path | list | None = None,  # rows (or a file) of prompt, or of text, for the distillation
    *,
    example: str | None = None,  # where there are no files: market, which is the default, or packages
    lang: str = "en",  # language of the marketplace: en or pt
    seed: int = 0,  # of all chance
    resume: bool = False,  # go on with a run that was stopped, from its last finished stage or checkpoint
    say: Callable[[str], object] = print,  # where progress is reported
    size: dict | None = None,  # of the example: n_train, n_sheets, n_corpus, n_test
    **knobs,  # of `journey`; None, and what is not named, is as the example sets it
) -> list[Stage]:
    """The whole journey, written to a folder. Without rows or files, an example runs.

    FileExistsError when `out` holds something else, or another run is at work in it; ValueError when the
    stopped run in it had other settings.
    """
    out = Path(out)
    taken = _check_free(out, resume)
    example = _example(example, lang, files=[sft, pairs, corpus])
    if example is None:
        base = base_for([sft, pairs, corpus], base, say)
    knobs = settings(example, dict(knobs, base=base, student=student))
    base = knobs["base"]
    if example == "market":
        material = EXAMPLES[example].material(lang=lang, seed=seed, **(size or {}))
    elif example:
        material = EXAMPLES[example].material(seed=seed, **(size or {}))
    else:
        material = load_material(sft, pairs, corpus, seed)
    about = _about(material, example, lang, seed, knobs)

    with ExitStack() as lock:
        if taken:
            lock.enter_context(folder_lock(out, "run"))  # before what it may be writing is cleared away
        kept = _finished(out, about, base) if taken else {}
        for name in kept:
            shutil.rmtree(out / WORK / name, ignore_errors=True)
        steps = journey(material, seed=seed, begin=_announce(say), kept=kept, work=out / WORK, **knobs)
        if not taken:  # the folder is made when nothing has to be refused any more
            lock.enter_context(folder_lock(out, "run"))
        say(f"{about['data']}: {_counted(about['rows'])}")
        stages: list[Stage] = []
        for stage in steps:
            stages.append(stage)
            if stages[0].lm.origin:
                about["weights"] = stages[0].lm.origin
            if stage.name not in kept:
                _keep(stage, stages, out, about)
                shutil.rmtree(out / WORK, ignore_errors=True)
            say(_line(stage) + (" | from the stopped run" if stage.name in kept else ""))
            if said := verdict(stages):
                say(f"{'':>10} | {said}")
        shutil.rmtree(out / WORK, ignore_errors=True)
        write_page(out)
    return stages


def _example(asked: str | None, lang: str, files: list) -> str | None:
    "Name of the example to run, None for files; ValueError when both are given, or a language it lacks."
    given = any(file is not None for file in files)
    if asked is not None and asked not in EXAMPLES:
        raise ValueError(f"example must be {' or '.join(EXAMPLES)}, not {asked!r}")
    if asked and given:
        raise ValueError(f"give files or the example {asked}, not both")
    if asked == "packages" and lang != "en":
        raise ValueError(f"lang is the marketplace's language; packages has no {lang!r}, leave it out")
    return None if given else asked or "market"


def settings(
    example: str | None,  # None: files
    asked: dict,  # arguments of `journey`; None is as the example sets it
) -> dict:
    """Arguments of `journey`: what was asked for, and the rest as it suits the example.

    With a base that no example chose, tiny-small is the student of a shipped model, and any other model
    gets a student of its own layers: two in three."""
    asked = {name: value for name, value in asked.items() if value is not None}
    known = EXAMPLES[example].settings if example else {}
    found = {"base": "tiny", **known, **asked}
    if "student" not in asked and found["base"] != known.get("base"):
        shipped = str(found["base"]) in SHIPPED
        found["student"] = "tiny-small" if shipped else two_thirds(load(found["base"]))
    return found


def two_thirds(lm: LM) -> int:  # layers
    "As many layers as a student keeps where nobody says how many."
    return max(round(lm.model.config.get_text_config().num_hidden_layers * 2 / 3), 1)


def _check_free(out: Path, resume: bool) -> bool:
    "Does the folder hold a run to go on with? FileExistsError when it holds anything and may not be used."
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if out.is_dir():
        with folder_lock(out, "run"):
            pass
    if not resume:
        go_on = ", or go on with what is there: --resume" if (out / "report.json").is_file() else ""
        raise FileExistsError(f"{out} exists and is not empty; choose another folder with --out{go_on}")
    if not (out / "report.json").is_file():
        raise FileExistsError(
            f"{out} exists and is not empty, and holds no report.json of a run to go on with; "
            "choose another folder with --out"
        )
    return True


def _announce(say) -> Callable[[str], None] | None:
    "Says that a stage begins, where somebody looks."
    return (lambda name: say(f"… {name}")) if is_interactive() else None


def _counted(rows: dict) -> str:
    return ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in rows.items())


def _line(stage: Stage) -> str:
    "What the stage reached, in one line."
    cells = [f"{m} {stage.report.score(m).value:.3f}" for m in stage.report.rows]
    if "tokens_per_second" in stage.report.speed:
        cells.append(f"{stage.report.speed['tokens_per_second']:,.0f} tokens/s")
    return f"{stage.name:>10} | {stage.seconds:5.0f} s | " + " | ".join(cells)


# ---- what the numbers were made with


def machine() -> dict:
    "What the numbers were measured with."
    return dict(
        date=time.strftime("%Y-%m-%d %H:%M"),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        threads=torch.get_num_threads(),
        device="cuda" if torch.cuda.is_available() else "cpu",
        versions={p: version(p) for p in ("torch", "transformers", "trl", "datasets")},
    )


def _about(material: Material, example: str | None, lang: str, seed: int, knobs: dict) -> dict:
    "The settings of a run, and the machine."
    parts = {name: rows for name in ROWS if (rows := getattr(material, name))}
    base, student = knobs["base"], knobs["student"]
    own_layers = f"{student} of its own layers" if isinstance(student, int) else None
    return dict(
        base=str(getattr(base, "name", base)),
        student=own_layers or str(getattr(student, "name", student)),
        example=example,
        data=EXAMPLES[example].data if example else "your data",
        lang=lang if example == "market" else None,
        seed=seed,
        rows={name: len(rows) for name, rows in parts.items()},
        material=fingerprint(parts.items()),
        knobs={
            k: v
            for k, v in knobs.items()
            if isinstance(v, (int, float, str)) and k not in ("base", "student")
        },
        **machine(),
    )


# ---- writing


def _keep(stage: Stage, stages: list[Stage], out: Path, about: dict):
    """The model's folder, and only then its line in report.json.

    A folder that is there already is from a run that was killed between the two.
    """
    if stage.name in FOLDERS:
        save(stage.lm, out / FOLDERS[stage.name], overwrite=True, card=_card(stage, stages, about))
    content = dict(about=about, stages=[_as_json(s) for s in stages])
    write_atomic(out / "report.json", json.dumps(content, ensure_ascii=False, indent=1))


def _as_json(stage: Stage) -> dict:
    return dict(
        name=stage.name,
        seconds=stage.seconds,
        report=asdict(stage.report),
        history=stage.lm.history,
        pairs=stage.pairs,
        held_pairs=stage.held_pairs,
    )


def _card(stage: Stage, stages: list[Stage], about: dict) -> str:
    "The model's README.md."
    made_from = about["base"] + (f" (student: {about['student']})" if stage.name == "distilled" else "")
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: text-generation",
            "tags: [ftguide]",
            "---",
            f"# {stage.name}",
            "",
            f"Made by ftguide from {made_from}, seed {about['seed']}, on {about['date']}. "
            f"Rows: {_counted(about['rows'])}.",
            "",
            "Measured on held-out rows, 95 % intervals:",
            "",
            markdown([s.report for s in stages]),
            "",
            f"Versions: {versions}.",
            "",
        ]
    )


# ---- going on


def _finished(out: Path, about: dict, base) -> dict[str, Stage]:
    "The stages that a stopped run left whole, by name; its half-written files are removed."
    try:
        was = read_json(out / "report.json")
        before, listed = was["about"], [(stage, Report.of(stage["report"])) for stage in was["stages"]]
        if not isinstance(before, dict) or not all(set(stage) >= NEEDED for stage, _ in listed):
            raise ValueError("parts are missing")
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{out / 'report.json'} is not a run's report; choose another folder with --out"
        ) from None
    now = json.loads(json.dumps(about))
    if other := [k for k in SETTINGS if before.get(k) != now[k]]:
        raise ValueError(
            f"{out} belongs to another run: {other[0]} was {before.get(other[0])}, and is {now[other[0]]}; "
            "give the same settings, or choose another folder with --out"
        )
    _clear_halves(out)
    found = {}
    for stage, report in listed:
        name = stage["name"]
        if name in FOLDERS and not (out / FOLDERS[name]).is_dir():
            break
        lm = load(out / FOLDERS[name]) if name in FOLDERS else _base_again(found, base)
        lm.name, lm.history = name, stage["history"]
        pairs, held_pairs = stage.get("pairs", []), stage.get("held_pairs", [])
        found[name] = Stage(name, lm, report, stage["seconds"], pairs, held_pairs)
    return found


def _base_again(found: dict[str, Stage], base) -> LM:
    "The untrained model: read once, for the stages without and with a prompt."
    return replace(found["base"].lm, history=[]) if "base" in found else load(base).copy()


def _clear_halves(out: Path):
    "Remove what a kill in the middle of writing leaves."
    for pattern in (*(f".{folder}-*" for folder in FOLDERS.values()), ".report.*"):
        for half in out.glob(pattern):
            shutil.rmtree(half) if half.is_dir() else half.unlink()
