"What the home pages say in numbers, read from the stored outputs of the chapters."

import ast
import json
import math
import re

from book import NBS, ROOT, cells, tables, texts

STAGES = ("base", "SFT", "DPO", "distilled")


def first(text: str) -> float:
    return float(re.search(r"-?[\d.]+(?:e[+-]?\d+)?", text.replace(",", ""))[0])


def interval(text: str) -> tuple:  # value, low, high
    value = first(text)
    if m := re.search(r"±\s*([\d.]+)", text):
        return value, value - float(m[1]), value + float(m[1])
    if m := re.search(r"\[([-\d.]+), ([-\d.]+)\]", text):
        return value, float(m[1]), float(m[2])
    return value, value, value


def parameters(name: str) -> int:
    "Of a shipped model, from the head of its weights' file."
    with open(ROOT / f"ftguide/checkpoints/{name}/model.safetensors", "rb") as f:
        head = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    return sum(math.prod(x["shape"]) for k, x in head.items() if k != "__metadata__")


def journey() -> dict:  # stage -> conversion (value, low, high) and usd; and seeds, smaller, faster
    """The whole journey: means over the seeds where there are some, and the costs of the first run.

    Stages may head columns or rows."""
    path, wanted, found, speed = (
        NBS / "09_journey.ipynb",
        {"conversion": "conversion", "usd per million tokens": "usd", "tokens per second": "speed"},
        {},
        None,
    )
    for c in cells(path):
        for text in texts(c):
            for table in tables(text):
                if {row[0] for row in table} >= set(STAGES):
                    table = [list(x) for x in zip(*table)]
                head, *rows = table
                for row in rows:
                    if row[0] == "tokens per second, distilled / DPO":
                        speed = first(row[1])
                    name, values = wanted.get(row[0].lower()), dict(zip(head, row))
                    if name and all(values.get(s) for s in STAGES) and (name not in found or "±" in text):
                        found[name] = {s: interval(values[s]) for s in STAGES}
    if "speed" in found:
        speed = found["speed"]["distilled"][0] / found["speed"]["DPO"][0]
    missing = {"conversion", "usd"} - set(found) | ({"tokens per second"} if speed is None else set())
    if missing:
        raise SystemExit(
            f"09_journey.ipynb stores no table of {', '.join(STAGES)} with {', '.join(sorted(missing))}; "
            "store its outputs"
        )
    seeds = next(
        (int(m[1]) for c in cells(path) if (m := re.search(r"^seeds(?:: int)? = (\d+)", c["source"], re.M))),
        1,
    )
    return {
        **{s: dict(conversion=found["conversion"][s], usd=found["usd"][s][0]) for s in STAGES},
        "seeds": seeds,
        "smaller": parameters("tiny") / parameters("tiny-small"),
        "faster": speed,
    }


def beside() -> tuple:  # {(stage, contender, vocabulary): ratio of CPU time}, and the same of peak memory
    "Side by side with other tools."
    time, memory = {}, {}
    for c in cells(NBS / "12_benchmarks.ipynb"):
        for text in texts(c):
            if text.startswith("{"):
                try:
                    seen = ast.literal_eval(text)
                except (ValueError, SyntaxError):
                    continue
                for label, ratio in seen.items():
                    if m := re.fullmatch(r"(SFT|DPO|distillation), ([\d,]+): (.+)", str(label)):
                        time[m[1], m[3], int(m[2].replace(",", ""))] = ratio
            for head, *rows in tables(text):
                if head[0] == "vocabulary" and any("peak" in h for h in head):
                    memory |= {
                        (head[1], row[1], int(row[0].replace(",", ""))): first(row[-1]) for row in rows
                    }
    if not time:
        raise SystemExit("12_benchmarks.ipynb stores no ratios of CPU time")
    return time, memory
