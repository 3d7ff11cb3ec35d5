"Reports side by side: as rows of text, as Markdown, as a figure with intervals."

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ftguide.engine.figures import STAGE_COLOURS, STAGE_MARKERS, figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SPEED = {  # names in `Report.speed` -> what tables call them
    "latency_p50_ms": "latency p50, ms",
    "latency_p95_ms": "latency p95, ms",
    "tokens_per_second": "tokens per second",
    "usd_per_million_tokens": "USD per million tokens",
    "api_price_ratio": "API price over own cost",
}

Reports = Sequence[Any]  # of `ftguide.evaluation.Report`


def _metrics(reports: Reports) -> list[str]:  # in their order, each once
    return list(dict.fromkeys(metric for report in reports for metric in report.rows))


def readable(
    value: float,
    sign: str = "",  # "+" writes it before what is not negative
) -> str:
    "Three significant digits, thousands parted by commas, no power of ten: 1,440 for 1444.4."
    return f"{float(f'{value:.3g}'):{sign},.10g}"


def table(
    reports: Reports,
    intervals: bool = True,  # 95 %
) -> list[list[str]]:  # header row, then a row a measure
    "Reports side by side as rows of text."
    rows = [["", *[report.name for report in reports]]]

    def add(label: str, values: list[str | None]) -> None:  # nothing where no report has the measure
        if any(values):
            rows.append([label, *(value or "" for value in values)])

    show = lambda score: score and (str(score) if intervals else f"{score.value:.3f}")
    for metric in _metrics(reports):
        add(metric, [show(r.score(metric)) if metric in r.rows else None for r in reports])
    add("answers cut at the limit", [_cut(r) for r in reports])
    add("perplexity per token", [r.perplexity and f"{r.perplexity:.2f}" for r in reports])
    add("perplexity per byte", [show(r.perplexity_per_byte) for r in reports])
    for name, label in SPEED.items():
        add(label, [_speed(r.speed, name) for r in reports])
    add("parameters", [f"{r.parameters:,}" for r in reports])
    return rows


def _cut(report: Any) -> str | None:
    "How many of the answers that are kept had not ended; nothing where all had."
    cut = sum(bool(answer.get("cut")) for answer in report.answers)
    return f"{cut:,} of {len(report.answers):,}, at {report.max_new_tokens:,} tokens" if cut else None


def _speed(speed: dict[str, float], name: str) -> str | None:
    "A speed as a table shows it; of p95 its interval, or how many answers were too few for it."
    if name in speed:
        low, high = (speed.get(f"latency_p95_{end}_ms") for end in ("low", "high"))
        ends = f" [{readable(low)}, {readable(high)}]" if name == "latency_p95_ms" and low and high else ""
        return f"{readable(speed[name])}{ends}"
    if name == "latency_p95_ms" and "latency_answers" in speed:
        return f"{speed['latency_answers']:,.0f} are too few"
    return None


def markdown(
    reports: Reports,
    intervals: bool = True,  # 95 %
) -> str:
    "The table of `table`, in Markdown."
    head, *rows = table(reports, intervals)
    return markdown_table(head, rows)


def markdown_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    align: str = "---",  # of every column but the first; "---:" to the right
) -> str:
    "Rows of text as a Markdown table."
    line = lambda cells: f"| {' | '.join(cells)} |"
    return "\n".join([line(head), line(["---", *[align] * (len(head) - 1)]), *map(line, rows)])


def plot_reports(reports: Reports, ax: Axes | None = None) -> Axes:
    "Metrics of several models on the same rows, with 95 % intervals; a colour and a mark for each stage."
    metrics = _metrics(reports)
    ax = ax or figures().subplots(figsize=(5.5, 0.6 + 0.4 * len(metrics)))[1]
    for i, report in enumerate(reports):
        colour = STAGE_COLOURS.get(report.name, f"C{i}")
        mark = STAGE_MARKERS.get(report.name, "osD^vP"[i % 6])
        for place, metric in enumerate(metrics):
            if metric not in report.rows:
                continue
            height, score = place + 0.18 * (i - (len(reports) - 1) / 2), report.score(metric)
            label = report.name if metric == next(iter(report.rows)) else None  # once in the legend
            ax.plot([score.low, score.high], [height] * 2, color=colour, lw=2)
            ax.plot(score.value, height, mark, color=colour, label=label)
    ax.set(yticks=range(len(metrics)), yticklabels=metrics, xlabel="score, 95 % interval", xlim=(-0.03, 1.03))
    ax.invert_yaxis()
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax
