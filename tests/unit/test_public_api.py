"What `import ftguide` offers: every public name, typed, and nothing heavy before it is used."

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import ftguide

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "transformers", "trl", "datasets", "matplotlib", "gradio", "scipy"}


def run(code: str, folder=ROOT) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_nothing_heavy():
    assert run(f"import ftguide, sys; print({HEAVY} & set(sys.modules))").strip() == "set()"


def test_import_is_quick():
    "The fastest of five: another process may hold the machine for a moment."
    code = "import time; t = time.perf_counter(); import ftguide; print(time.perf_counter() - t)"
    assert min(float(run(code)) for _ in range(5)) < 0.3


@pytest.mark.parametrize("name", ftguide.__all__)
def test_public_name_can_be_used(name):
    found = getattr(ftguide, name)
    assert callable(found), f"{name} is {found!r}"
    assert found.__name__ == name


@pytest.mark.parametrize("name", ftguide.__all__)
def test_public_parameters_have_types(name):
    "Every parameter of a public function says its type."
    found = getattr(ftguide, name)
    if inspect.isclass(found):
        return
    signature = inspect.signature(found)
    assert not [p.name for p in signature.parameters.values() if p.annotation is p.empty]
    assert signature.return_annotation is not signature.empty


def test_a_public_name_stays_a_function_after_its_module_was_imported():
    "Importing a submodule sets an attribute on the package; no public name may be hidden by it."
    modules = sorted(p.stem for p in (ROOT / "ftguide").glob("*.py") if not p.name.startswith("_"))
    assert not set(modules) & set(ftguide.__all__)


def test_names_of_stages_parameters_agree():
    "A model is `model`, rows are `data`, held-out rows `eval_data`, in every stage."
    for name in ("finetune_sft", "align_dpo", "align_kto"):
        first, second, *rest = inspect.signature(getattr(ftguide, name)).parameters
        assert (first, second) == ("model", "data"), name
        assert {"eval_data", "patience", "lora", "output_dir", "resume", "seed", "callbacks", "force"} <= set(
            rest
        ), name


def test_import_works_beside_a_clone(tmp_path):
    "In the folder that holds a clone, `ftguide` is also a folder without __init__.py."
    (tmp_path / "ftguide").mkdir()
    assert "tiny" in run("from ftguide import load; print(load('tiny').name)", tmp_path)


TRAINING = {"trl", "peft", "datasets", "transformers.trainer"}


@pytest.mark.parametrize(
    "modules, without",
    [
        ("ftguide.cli", HEAVY | TRAINING),
        ("ftguide.data", HEAVY | TRAINING),  # `ftguide check FILE`
        ("ftguide.feedback, ftguide.serving.votes", (HEAVY | TRAINING) - {"scipy"}),
        ("ftguide.decide", (HEAVY | TRAINING) - {"scipy"}),
        ("ftguide.serving.versions", HEAVY | TRAINING),
        (
            "ftguide.evaluation, ftguide.deployment, ftguide.judges, ftguide.serving.streaming",
            TRAINING | {"matplotlib"},
        ),
    ],
)
def test_a_command_that_does_not_train_is_quick_to_start(modules, without):
    "What its modules load: no training library without a training, no torch where no model is asked."
    loaded = run(f"import sys, {modules}; print(*sys.modules)").split()
    assert not without & set(loaded)
