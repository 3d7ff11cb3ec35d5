"""Mutation testing of the losses and of the data checks, on mutmut 3.

Each mutant is one small change of the code, and a test should notice it. `make mutants`."""

import ast
import json
import os
import random
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "build/mutants"
# What is mutated: all of a module where no name stands; a class stands for its methods. `lru_cache` is
# taken off, because mutmut leaves decorated functions alone.
TARGETS = {
    "sft": "completion_loss",
    "dpo": "dpo_loss _warn_of_length _check_smoothing kl_per_token",
    "distillation": "scaled_jsd divergence_beta dense_targets sparse_targets log_softmax distillation_loss "
    "_soft_term ChunkedLoss _add_gradient",
    "engine/teachers": "encoded LogitTeacher",
    "engine/cache": "likely_and_drawn_tokens",
    "models": "token_logps encode collate completion_logps perplexity plain_head scored_states scored_logits",
    "data": "split _mixed check",
    "engine/formats": "",
    "engine/rows": "",
    "engine/conversations": "",
    "engine/tokens": "",
    "engine/training_data": "",
    "engine/duplicates": "",
    "engine/personal_data": "",
    "engine/checks": "",
    "engine/preflight": "",
}


def marked(text: str, names: list) -> str:  # the module, in which mutmut sees nothing but `names`
    "A module with pragmas around every other function and class."
    found = [n for n in ast.parse(text).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    assert set(names) <= {n.name for n in found}, f"no function {set(names) - {n.name for n in found}}"
    lines = text.splitlines()
    for n in reversed(found):
        first = min([n.lineno, *(d.lineno for d in n.decorator_list)]) - 1
        if names and n.name not in names:
            lines[n.end_lineno : n.end_lineno] = ["# pragma: no mutate end"]
            lines[first:first] = ["# pragma: no mutate start"]
        elif lines[first] == "@lru_cache":
            del lines[first]
    return "\n".join(lines) + "\n"


def tests_of(module: str) -> str:
    name = "test_" + module.split("/")[-1]
    return name if (ROOT / f"tests/unit/{name}.py").exists() else "test_losses"


def prepared(modules: list):
    "A copy of the package and the tests, beside nothing else."
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    for name in ("ftguide", "tests"):
        shutil.copytree(ROOT / name, SCRATCH / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "settings.ini"):
        shutil.copy(ROOT / name, SCRATCH / name)
    for module in modules:
        path = SCRATCH / f"ftguide/{module}.py"
        path.write_text(marked(path.read_text(encoding="utf-8"), TARGETS[module].split()), encoding="utf-8")
    chosen = dict(
        only_mutate=[f"ftguide/{m}.py" for m in modules],
        pytest_add_cli_args_test_selection=sorted({f"tests/unit/{tests_of(m)}.py" for m in modules}),
    )
    settings = (SCRATCH / "pyproject.toml").read_text(encoding="utf-8") + "".join(
        f"{k} = {json.dumps(v)}\n" for k, v in chosen.items()
    )  # [tool.mutmut] stands last
    (SCRATCH / "pyproject.toml").write_text(settings, encoding="utf-8")


def run(share: float):
    """All mutants but those of texts for people (strings with a space.

    Messages, docstrings), whose words may change; or a share of them, the same each time."""
    from mutmut.__main__ import cli
    from mutmut.mutation import file_mutation

    create = file_mutation.create_mutations

    def chosen(filename, *rest):
        module, mutations, *ignored = create(filename, *rest)
        dice = random.Random(str(filename))
        spoken = lambda m: (
            type(m.original_node).__name__ == "SimpleString" and " " in m.original_node.raw_value
        )
        return module, [m for m in mutations if not spoken(m) and dice.random() < share], *ignored

    file_mutation.create_mutations = chosen
    cli(["run", "--max-children", "1"], standalone_mode=False)


def report(modules: list):
    "How many of each module were killed, and the others one by one."
    from mutmut.mutation.data import SourceFileMutationData
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.stats import status_by_exit_code

    left = []
    for module in modules:
        data = SourceFileMutationData(path=Path(f"ftguide/{module}.py"))
        data.load()
        status = {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()}
        killed = sum(s in ("killed", "timeout", "segfault") for s in status.values())
        print(f"{module}: {killed} of {len(status)} killed, {killed / max(len(status), 1):.1%}")
        left += [
            (name, s, data.path) for name, s in status.items() if s not in ("killed", "timeout", "segfault")
        ]
    for name, state, path in left:
        print(f"\n{name}: {state}")
        print(
            "\n".join(
                line
                for line in get_diff_for_mutant(name, path=path).splitlines()
                if line[:1] in "+-" and line[:3] not in ("+++", "---")
            )
        )


if __name__ == "__main__":
    share = float(os.environ.get("SHARE") or 1)
    modules = [a for a in sys.argv[1:] if a != "--report"] or list(TARGETS)
    if "--report" not in sys.argv:
        prepared(modules)
    os.chdir(SCRATCH)
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    if "--report" not in sys.argv:
        run(share)
    report(modules)
