"""Puts the numbers of the chapters into the home pages, and the chapters' tables into the index of symptoms.

`--check` only compares."""

from book import NBS, cells, chapters, replaced, tables, title, write
from measured import beside, journey


def case(seen) -> str:
    c = {s: 100 * seen[s]["conversion"][0] for s in ("base", "SFT", "DPO", "distilled")}
    u = {s: seen[s]["usd"] for s in c}
    alt = (
        f"Shoppers who buy against cost: base model {c['base']:.0f} of 100, after SFT {c['SFT']:.0f}, after "
        f"DPO {c['DPO']:.0f}, distilled {c['distilled']:.0f}. The model is the same up to DPO, so what "
        f"differs in its cost is this machine; the distilled one costs {u['DPO'] / u['distilled']:.1f} "
        "times less than DPO's."
    )
    over = (
        f"buyers: means of {seen['seeds']} runs, in the picture with 95 % intervals; speed and cost: the "
        "first run"
        if seen["seeds"] > 1
        else "one run, in the picture with 95 % intervals"
    )
    return (
        f"![{alt}](theme/journey.svg)\n\n"
        f"Ads of the base model sell to {c['base']:.0f} of 100 simulated shoppers, after SFT to "
        f"{c['SFT']:.0f}, "
        f"after DPO to {c['DPO']:.0f}. A model with {seen['smaller']:.1f} times fewer parameters, "
        "distilled from "
        f"that one, writes {seen['faster']:.1f} times as many tokens per second and sells to "
        f"{c['distilled']:.0f}\n"
        f"({over}; measured in [the whole journey](09_journey.ipynb), and a gate decides whether that is "
        "good "
        "enough to [deploy](08_deploy.ipynb))."
    )


def caso(seen) -> str:
    c = {s: 100 * seen[s]["conversion"][0] for s in ("base", "SFT", "DPO", "distilled")}
    u = {s: seen[s]["usd"] for s in c}
    comma = lambda x: f"{x:.1f}".replace(".", ",")
    size, speed = comma(seen["smaller"]), comma(seen["faster"])
    alt = (
        f"Compradores e custo: modelo base {c['base']:.0f} em 100, depois do SFT {c['SFT']:.0f}, depois do "
        f"DPO {c['DPO']:.0f}, destilado {c['distilled']:.0f}. Até o DPO o modelo é o mesmo, e o que muda no "
        f"custo é a máquina; o destilado custa {comma(u['DPO'] / u['distilled'])} vezes menos que o do DPO."
    )
    over = (
        f"compradores: médias de {seen['seeds']} execuções, na figura com intervalos de 95 %; velocidade e "
        "custo: a primeira"
        if seen["seeds"] > 1
        else "uma execução, na figura com intervalos de 95 %"
    )
    return (
        f"![{alt}](../theme/journey-pt.svg)\n\n"
        f"Os anúncios do modelo base vendem a {c['base']:.0f} de 100 compradores simulados; depois do SFT, a "
        f"{c['SFT']:.0f}; depois do DPO, a {c['DPO']:.0f}. Um modelo com {size} vezes menos parâmetros, "
        "destilado "
        f"dele, escreve {speed} vezes mais tokens por segundo e vende a {c['distilled']:.0f}\n"
        f"({over}; medido em [a jornada inteira](../09_journey.ipynb), com o mercado em inglês)."
    )


def others(time, memory) -> str:
    lines = []
    for stage, name, against in (
        ("SFT", "TRL float32", "TRL's `SFTTrainer`, float32"),
        ("SFT", "plain", "transformers' `Trainer`"),
        ("DPO", "TRL float32", "TRL's `DPOTrainer`, float32"),
        ("DPO", "TRL, reference once", "the same, reference computed once"),
        ("DPO", "plain", "a loop in PyTorch"),
        ("distillation", "TRL float32", "TRL's `GKDTrainer`, float32"),
        ("distillation", "plain", "a loop in PyTorch"),
    ):
        seen = {v: r for (s, n, v), r in time.items() if (s, n) == (stage, name)}
        if not seen:
            continue
        small, large = (f"{seen[v]:.1f}" for v in (min(seen), max(seen)))
        peak = memory.get((stage, name, max(seen)))
        lines.append(f"| {stage} | {against} | {large} | {small} | {f'{peak:.1f}' if peak else ''} |")
    vocabularies = sorted({v for *_, v in time})
    small, large = (f"vocabulary {v:,}" for v in (vocabularies[0], vocabularies[-1]))
    before = (
        "## Measured beside other tools\n\n"
        "The same loss on the same batch with the same weights, one CPU core. How many times what `ftguide` "
        "needs does a training step cost elsewhere?\n"
    )
    head = f"| stage | beside | time, {large} | time, {small} | peak memory, {large} |"
    after = (
        "\nThe gain comes from multiplying only the scored positions with the vocabulary, so it is large "
        "where "
        "the vocabulary is large beside the rest of the model, and small elsewhere. Part of TRL's SFT time "
        "buys "
        "statistics that ours does not compute. [Side by side](12_benchmarks.ipynb)\n"
        "has the settings, the spread, and how far this carries."
    )
    return "\n".join([before, head, "|---|---|---|---|---|", *lines, after])


SYMPTOM_HEADS = ("what you see", "what one sees", "symptom", "what happens")


def symptoms() -> str:
    "Tables of the chapters that begin with what one sees."
    parts = []
    for path in chapters():
        found = []
        for c in cells(path):
            if c["cell_type"] != "markdown":
                continue
            for head, *rows in tables(c["source"]):
                if not (seen := [i for i, name in enumerate(head) if name in SYMPTOM_HEADS]):
                    continue
                order = [seen[0], *(i for i in range(len(head)) if i != seen[0])]
                lines = ["| " + " | ".join(row[i] for i in order) + " |" for row in (head, *rows)]
                table = "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
                table = table.replace("](#", f"]({path.name}#")
                found.append(table)
        if found:
            parts.append("\n\n".join([f"From [{title(path)}]({path.name}):", *found]))
    return (
        "## What the chapters plant and find\n\nThese tables stand in the chapters, where each trap is "
        "planted and each check is run.\n\n" + "\n\n".join(parts)
    )


if __name__ == "__main__":
    seen = journey()
    write(
        {
            NBS / "index.ipynb": replaced(
                NBS / "index.ipynb", {"index-case": case(seen), "index-beside": others(*beside())}
            ),
            NBS / "pt/index.ipynb": replaced(NBS / "pt/index.ipynb", {"pt-case": caso(seen)}),
            NBS / "symptoms.ipynb": replaced(NBS / "symptoms.ipynb", {"symptoms-chapters": symptoms()}),
        }
    )
