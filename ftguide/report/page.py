"The page of a run: report.json as one HTML file that asks nobody for anything."

from __future__ import annotations

import html
import io
import math
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.style import context as style

from ftguide.engine.figures import STAGE_COLOURS, STAGE_MARKERS, label_points
from ftguide.engine.files import read_json, write_atomic
from ftguide.engine.rows import conversation_text
from ftguide.engine.statistics import interval
from ftguide.engine.tables import table
from ftguide.evaluation import Report
from ftguide.journey import EXAMPLES

FEW_ROWS = 50  # test rows below which the page warns of wide intervals
MOST_EXAMPLES = 20
MOST_PAIRS = 4
MOST_CHARACTERS = 400  # of a text in the examples
LAST_CHARACTERS = 80  # of them at its end, where many prompts have their question
MEASURED = ("conversion", "ROUGE-L", "exact match", "preference accuracy")  # the first found is drawn
UNTRAINED = ("base", "prompt")  # stages that have not been taught to stop
DEGENERATION = (  # what of Report.degeneration is said, in words, above which share
    ("truncated_share", "never ended", 0.1),
    ("mode_share", "are the same text", 0.6),
)
TEXT = "#010203"  # stands for the page's own text colour until the figure is inside the page
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "ftguide",  # the same figure gives the same file
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
}


def write_page(
    folder: str | Path,  # of a run, with its report.json
) -> Path:
    "Write report.html beside report.json."
    folder = Path(folder).resolve()
    try:
        text = page(read_json(folder / "report.json"), folder)
    except (KeyError, TypeError, AttributeError, IndexError, UndefinedError) as e:
        raise ValueError(f"{folder / 'report.json'}: is not the report of a run ({e})") from e
    write_atomic(folder / "report.html", text)
    return folder / "report.html"


def page(
    data: dict,  # content of report.json
    folder: Path,  # as the page names it; its models are listed
) -> str:
    "The page as HTML; whatever a model or a row says in it is text."
    about, stages = data["about"], data["stages"]
    reports = [Report.of(stage["report"]) for stage in stages]
    test_rows = about["rows"].get("test", 0)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        about=about,
        names=[stage["name"] for stage in stages],
        table=table(reports),
        few_rows=test_rows if 0 < test_rows < FEW_ROWS else 0,
        judged=any(r.rows for r in reports),
        meanings=_meanings(about, reports),
        gains=gains(reports),
        against=reports[-1].against,
        warnings=degeneration_warnings([r for r in reports if r.name not in UNTRAINED]),
        untrained=degeneration_warnings([r for r in reports if r.name in UNTRAINED]),
        losses=[loss_figure(s["name"], s["history"]) for s in stages if has_losses(s["history"])],
        cost=cost_figure(reports),
        pairs=pairs_shown(stages),
        examples=examples(reports),
        answering=[r.name for r in reports if r.answers],
        folder=folder.name,
        models=[f for f in ("sft", "dpo", "student") if (folder / f).is_dir()],
    )


def degeneration_warnings(reports: list[Report]) -> list[str]:
    "Models that repeat one answer or do not stop, and how often."
    return [
        f"{report.name}: {share:.0%} of the answers {words}"
        for report in reports
        for name, words, limit in DEGENERATION
        if (share := report.degeneration.get(name, 0)) > limit
    ]


def _meanings(about: dict, reports: list[Report]) -> dict[str, str]:  # metric -> what it measures
    measured = dict.fromkeys(metric for report in reports for metric in report.rows)
    known = dict(EXAMPLES[about["example"]].metrics) if about.get("example") in EXAMPLES else {}
    return {metric: known[metric] for metric in measured if metric in known}


def gains(reports: list[Report]) -> dict:  # before and after: names; rows: metric, ratio, difference
    "What training was worth: the last model before a distillation beside the base, prompted where it was."
    trained = [r for r in reports if r.name not in (*UNTRAINED, "distilled")]
    untrained = [r for r in reports if r.name in UNTRAINED]
    if not trained or not untrained:
        return {}
    after, before = trained[-1], untrained[-1]
    rows = [
        [
            metric,
            *(_compared(after.rows[metric], before.rows[metric], how) for how in ("ratio", "difference")),
        ]
        for metric in after.rows
        if metric in before.rows and len(after.rows[metric]) == len(before.rows[metric])
    ]
    return dict(before=before.name, after=after.name, rows=rows) if rows else {}


def _compared(after: list, before: list, how: str) -> str:
    score = interval(after, before, how=how)
    return "" if math.isnan(score.value) else str(score)


# ---- figures


def has_losses(history: list[dict]) -> bool:
    return any("loss" in entry for entry in history)


def loss_figure(
    stage: str,
    history: list[dict],  # of its training: step with loss or eval_loss
) -> str:
    "The learning curve of a stage, as SVG."
    points = lambda key: [(entry["step"], entry[key]) for entry in history if key in entry]
    with style(STYLE):
        axes = _axes(3.4, 2.4)
        axes.plot(*zip(*points("loss")), color=STAGE_COLOURS.get(stage), label="training")
        if held_out := points("eval_loss"):
            axes.plot(*zip(*held_out), "s--", color=TEXT, ms=4, lw=1, label="validation")
            axes.legend(frameon=False)
        unit = "nats" if stage == "DPO" else "nats per token"
        axes.set(title=stage, xlabel="step", ylabel=f"loss, {unit}", ylim=(0, None))
        return _svg(axes, f"Loss of {stage} over its steps")


def cost_figure(reports: list[Report]) -> str:
    "Quality against the price of a million tokens, as SVG; empty where not both were measured."
    metric = next((m for m in MEASURED if m in reports[-1].rows), None)
    priced = [r for r in reports if metric in r.rows and "usd_per_million_tokens" in r.speed]
    if not priced:
        return ""
    with style(STYLE):
        axes = _axes(4.2, 2.8)
        for report in priced:
            score, usd = report.score(metric), report.speed["usd_per_million_tokens"]
            axes.errorbar(
                usd,
                score.value,
                [[max(score.value - score.low, 0)], [max(score.high - score.value, 0)]],
                fmt=STAGE_MARKERS.get(report.name, "o"),
                color=STAGE_COLOURS.get(report.name),
                ms=8,
                capsize=3,
            )
        axes.set(
            xlabel="USD per million tokens, on this machine", ylabel=metric, xlim=(0, None), ylim=(0, None)
        )
        label_points(
            axes, {r.name: (r.speed["usd_per_million_tokens"], r.score(metric).value) for r in priced}
        )
        return _svg(axes, f"{metric} of each model against its price of a million tokens")


def _axes(width: float, height: float) -> Axes:  # inches
    return Figure(figsize=(width, height), layout="tight").subplots()


def _svg(axes: Axes, label: str) -> str:
    "An SVG element that takes its text colour from the page."
    file = io.StringIO()
    axes.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(TEXT, "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


# ---- examples


def pairs_shown(stages: list[dict]) -> list[dict]:  # asked, chosen, rejected
    "A few pairs, from the first to the last."
    pairs = next((stage["pairs"] for stage in stages if stage.get("pairs")), [])
    picked = _spread(len(pairs), MOST_PAIRS)
    text = lambda pair, key: _shortened(conversation_text(pair[key]))
    return [
        dict(asked=text(p, "prompt"), chosen=text(p, "chosen"), rejected=text(p, "rejected"))
        for p in (pairs[i] for i in picked)
    ]


def _spread(count: int, most: int) -> list[int]:
    "Numbers below count, evenly spread, at most so many."
    most = min(count, most)
    return sorted({round(i * (count - 1) / max(most - 1, 1)) for i in range(most)})


def examples(reports: list[Report]) -> list[dict]:
    "The same questions to every model: asked, expected, and the answers in the order of the reports."
    answered = [r.answers for r in reports if r.answers]
    if not answered:
        return []
    picked = _spread(len(answered[0]), MOST_EXAMPLES)
    return [
        dict(
            asked=_shortened(conversation_text(answered[0][i]["prompt"])),
            expected=_shortened(conversation_text(answered[0][i]["reference"])),
            answers=[_shortened(answers[i]["answer"]) for answers in answered],
        )
        for i in picked
    ]


def _shortened(text: str) -> str:
    "The beginning and the end of a long text."
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[: MOST_CHARACTERS - LAST_CHARACTERS]} … {text[-LAST_CHARACTERS:]}"
