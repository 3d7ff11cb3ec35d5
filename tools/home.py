"""Puts the numbers of the chapters into the home pages, and the chapters' tables into the index of symptoms.

`--check` only compares."""

import sys

from book import NBS, ROOT, cells, chapters, replaced, tables, title, write
from measured import beside, journey

sys.path.insert(0, str(ROOT))  # the script's own copy of the package
from ftguide.engine.tables import markdown_table
from ftguide.report.stored_runs import METRICS, StoredRuns, read_runs, with_interval

REAL_STAGES = ("prompt", "SFT", "DPO", "distilled")  # as the home pages show them


def real_case(runs: StoredRuns) -> str:
    "What the stages brought a real model, in two sentences and a table."
    says = {
        "section": "in the right one of 12 sections",
        "ROUGE-L": "likeness to the maintainer's synopsis (ROUGE-L)",
        "no fault": "synopses without a fault by Debian's rules",
        "chrF": "likeness to the translator's (chrF)",
    }
    head = ["", "best prompt", "after SFT", "after DPO", "student"]
    rows = [[says[m], *[with_interval(runs.score(stage, m)) for stage in REAL_STAGES]] for m in METRICS]
    rows.append(["tokens per second", *[f"{runs.speed(stage):.0f}" for stage in REAL_STAGES]])
    per_hundred = lambda stage, m: f"{100 * runs.score(stage, m).value:.0f}"
    likeness = lambda stage: f"{runs.score(stage, 'ROUGE-L').value:.2f}"
    kept = {m: f"{100 * runs.change('distilled', 'DPO', m, 'ratio').value:.0f} %" for m in METRICS}
    fell = [
        f"{m} after {after} ({with_interval(change, 3, '+')})"
        for after, before in (("SFT", "prompt"), ("DPO", "SFT"))
        for m in METRICS
        if (change := runs.change(after, before, m)).high < 0
    ]
    smaller = runs.millions("distilled") / runs.millions("DPO")
    pleased = runs.change("DPO", "SFT", "no fault")
    unclear = "" if pleased.low > 0 else f", which is no clear change ({with_interval(pleased, 3, '+')})"
    return (
        "**A real model, and text that people wrote.** SmolLM2-135M-Instruct reads "
        "[descriptions of Debian's packages](14_packages.ipynb): it is to name the section, write the "
        "one-line synopsis, and translate it into Portuguese. With the best prompt it puts "
        f"{per_hundred('prompt', 'section')} of 100 unseen packages into the right section, after SFT on "
        f"{runs.rows('train')} rows {per_hundred('SFT', 'section')}; its synopses go from "
        f"{likeness('prompt')} to {likeness('SFT')} in likeness to the maintainers'. DPO, on pairs that "
        "Debian's written rules judged, moves synopses without a fault from "
        f"{per_hundred('SFT', 'no fault')} to {per_hundred('DPO', 'no fault')} of 100{unclear}. A student "
        f"with {100 * smaller:.0f} % of the parameters keeps {kept['section']} of the right sections, "
        f"{kept['ROUGE-L']} of that likeness and {kept['chrF']} of the translations'.\n\n"
        f"{markdown_table(head, rows)}\n\n"
        f"{runs.rests_on.capitalize()}. All stages together took "
        f"{sum(map(runs.minutes, runs.stages)):.0f} minutes on two CPU cores. "
        f"What clearly fell on the way: {'; '.join(fell) or 'nothing'}. "
        "[The whole journey](09_journey.ipynb#the-same-on-a-real-model) has answers to read, and what the "
        "source document promised beside this; `make real` runs it."
    )


def caso_real(runs: StoredRuns) -> str:
    comma = lambda text: text.replace(".", ",")
    says = {
        "section": "na seção certa, entre 12",
        "ROUGE-L": "semelhança com a sinopse do mantenedor (ROUGE-L)",
        "no fault": "sinopses sem falha, pelas regras do Debian",
        "chrF": "semelhança com a tradução de voluntários (chrF)",
    }
    head = ["", "melhor prompt", "depois do SFT", "depois do DPO", "aluno"]
    rows = [
        [says[m], *[comma(with_interval(runs.score(stage, m))) for stage in REAL_STAGES]] for m in METRICS
    ]
    rows = [[said, *[cell.replace(", ", "; ") for cell in cells]] for said, *cells in rows]
    rows.append(["tokens por segundo", *[f"{runs.speed(stage):.0f}" for stage in REAL_STAGES]])
    em_cem = lambda stage, m: f"{100 * runs.score(stage, m).value:.0f}"
    likeness = lambda stage: comma(f"{runs.score(stage, 'ROUGE-L').value:.2f}")
    kept = {m: f"{100 * runs.change('distilled', 'DPO', m, 'ratio').value:.0f} %" for m in METRICS}
    n, rows_each = len(runs.runs), runs.score("SFT", "section").n
    over = (
        f"Médias de {n} execuções, com intervalos de 95 % entre elas"
        if n > 1
        else f"Uma execução só, com intervalos de 95 % sobre {rows_each} linhas de teste de cada tarefa"
    )
    smaller = runs.millions("distilled") / runs.millions("DPO")
    unclear = (
        ""
        if runs.change("DPO", "SFT", "no fault").low > 0
        else ", mudança que o intervalo não separa de zero"
    )
    return (
        "**Um modelo de verdade, e textos que pessoas escreveram.** O SmolLM2-135M-Instruct lê "
        "[descrições de pacotes do Debian](../14_packages.ipynb): deve dizer a seção, escrever a sinopse de "
        "uma linha e traduzi-la para o português. Com o melhor prompt acerta a seção de "
        f"{em_cem('prompt', 'section')} em 100 pacotes novos; depois do SFT com {runs.rows('train')} linhas, "
        f"de {em_cem('SFT', 'section')}. A semelhança das sinopses com as dos mantenedores vai de "
        f"{likeness('prompt')} a {likeness('SFT')}. O DPO, com pares julgados pelas regras escritas do "
        f"Debian, leva as sinopses sem falha de {em_cem('SFT', 'no fault')} a "
        f"{em_cem('DPO', 'no fault')} em 100{unclear}. Um aluno com {100 * smaller:.0f} % dos parâmetros "
        f"mantém {kept['section']} das seções certas, {kept['ROUGE-L']} dessa semelhança e {kept['chrF']} da "
        "das traduções.\n\n"
        f"{markdown_table(head, rows)}\n\n"
        f"{over}; {sum(map(runs.minutes, runs.stages)):.0f} minutos em dois núcleos de CPU. "
        "[A jornada inteira](../09_journey.ipynb#the-same-on-a-real-model) mostra respostas, e ao lado o "
        "que o documento de origem prometia."
    )


def case(seen) -> str:
    "The same on the invented marketplace, with the tiny models."
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
        "The same stages, in minutes, on a tiny model and an invented marketplace, where every claim can be "
        f"checked: ads of the base model sell to {c['base']:.0f} of 100 simulated shoppers, after SFT to "
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
        "As mesmas etapas, em minutos, num modelo minúsculo e num mercado inventado, onde tudo o que se "
        f"afirma pode ser conferido: os anúncios do modelo base vendem a {c['base']:.0f} de 100 compradores "
        "simulados; depois do SFT, a "
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
    seen, runs = journey(), read_runs()
    write(
        {
            NBS / "index.ipynb": replaced(
                NBS / "index.ipynb",
                {"index-real": real_case(runs), "index-case": case(seen), "index-beside": others(*beside())},
            ),
            NBS / "pt/index.ipynb": replaced(
                NBS / "pt/index.ipynb", {"pt-real": caso_real(runs), "pt-case": caso(seen)}
            ),
            NBS / "symptoms.ipynb": replaced(NBS / "symptoms.ipynb", {"symptoms-chapters": symptoms()}),
        }
    )
