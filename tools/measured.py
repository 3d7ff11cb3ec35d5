"What the home pages say in numbers, read from the stored outputs of the chapters."
import ast, re
from book import NBS, cells, tables, texts

STAGES = ("base", "SFT", "DPO", "distilled")


def first(text:str) -> float: return float(re.search(r"-?[\d.]+(?:e[+-]?\d+)?", text.replace(",", ""))[0])


def interval(text:str) -> tuple: # value, low, high
    value = first(text)
    if m := re.search(r"±\s*([\d.]+)", text): return value, value - float(m[1]), value + float(m[1])
    if m := re.search(r"\[([-\d.]+), ([-\d.]+)\]", text): return value, float(m[1]), float(m[2])
    return value, value, value


def journey() -> dict: # stage -> conversion (value, low, high), usd, parameters, tokens_per_second; and "seeds"
    "The whole journey: the table over the seeds where there is one, and the costs of the first run."
    path, found = NBS / "09_workflow.ipynb", {}
    wanted = {"conversion": "conversion", "usd per million tokens": "usd", "parameters": "parameters", "tokens per second": "tokens_per_second"}
    for c in cells(path):
        for text in texts(c):
            for head, *rows in tables(text):
                if not set(STAGES) <= set(head): continue
                for row in rows:
                    name = wanted.get(row[0].lower())
                    values = dict(zip(head, row))
                    if name and all(values[s] for s in STAGES) and (name not in found or "±" in text): found[name] = {s: interval(values[s]) for s in STAGES}
    missing = set(wanted.values()) - set(found)
    if missing: raise SystemExit(f"09_workflow.ipynb stores no table of {', '.join(STAGES)} with {', '.join(sorted(missing))}")
    seeds = next((int(m[1]) for c in cells(path) if (m := re.search(r"^seeds\s*:?\w*\s*=\s*(\d+)", c["source"], re.M))), 1)
    return {**{s: {k: v[s] if k == "conversion" else v[s][0] for k, v in found.items()} for s in STAGES}, "seeds": seeds}


def beside() -> tuple: # {(stage, contender, vocabulary): ratio of CPU time}, {stage: ratio of memory}
    "Side by side with other tools."
    time, memory = {}, {}
    for c in cells(NBS / "12_benchmarks.ipynb"):
        for text in texts(c):
            if text.startswith("{"):
                try: seen = ast.literal_eval(text)
                except (ValueError, SyntaxError): continue
                for label, ratio in seen.items():
                    if m := re.fullmatch(r"(SFT|DPO|distillation), ([\d,]+): (.+)", str(label)): time[m[1], m[3], int(m[2].replace(",", ""))] = ratio
            for head, *rows in tables(text):
                if any("peak" in h for h in head): memory |= {row[0]: first(row[-1]) for row in rows}
    if not time: raise SystemExit("12_benchmarks.ipynb stores no ratios of CPU time")
    return time, memory
