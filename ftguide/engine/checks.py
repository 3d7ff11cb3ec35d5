"""What is wrong with data, seen before training: each check takes the prepared rows and yields findings

What `ftguide[check]` brings (scipy here) is imported where it is needed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ftguide.engine.duplicates import COMPARED, WORD, near_duplicates
from ftguide.engine.environment import progress_bar
from ftguide.engine.formats import KINDS, DataError, Source, addressed_rows
from ftguide.engine.languages import SMALL_WORDS, language
from ftguide.engine.pair_scores import contradicting
from ftguide.engine.personal_data import personal_data, without_personal_data
from ftguide.engine.rows import MOST, Row, no_rows, question_key, repeated_prompts
from ftguide.engine.spellings import not_read
from ftguide.engine.text_faults import ends_like_a_sentence, ends_with_ellipsis, mojibake, placeholder
from ftguide.engine.texts import normalised_text
from ftguide.engine.tokens import FAULTS, NOTES, TokenisedRow, tokenised

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEVERITIES = ("error", "warning", "note")
LIBRARIES = ("datasketch", "phonenumbers", "rapidfuzz", "scipy", "stdnum")


@dataclass
class Finding:
    "One kind of trouble, the rows that have it, and what to do."

    name: str
    severity: str  # "error": training goes wrong; "warning": look at it; "note": know it
    rows: list[int]  # numbers of the rows, counted from 0 in the source
    where: str  # addresses of the first ones
    example: str
    do: str


@dataclass
class Findings:
    "What `check` found, the worst first."

    found: list[Finding]
    n: int  # rows looked at
    lengths: list[int] = field(default_factory=list)  # tokens of each row; empty without a tokenizer
    max_length: int | None = None  # tokens that training keeps

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.found if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.found if finding.severity == "warning"]

    def __getitem__(self, name: str) -> Finding:
        nothing = Finding(name, "note", [], "", "", "")
        return next((finding for finding in self.found if finding.name == name), nothing)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.found)

    def __contains__(self, name: str) -> bool:
        return any(finding.name == name for finding in self.found)

    def flagged(self) -> set[int]:  # numbers of the rows with an error or a warning
        return {i for finding in self.errors + self.warnings for i in finding.rows}

    def without(
        self,
        rows: list,  # that were checked
        *names: str,  # of findings; all errors and warnings when there are none
    ) -> list:
        "The rows that no finding (or none of those named) points at."
        counted = [f for f in self.errors + self.warnings if not names or f.name in names]
        gone = {i for finding in counted for i in finding.rows}
        return [row for i, row in enumerate(rows) if i not in gone]

    def _headline(self) -> str:
        counts = ((len(self.errors), "error"), (len(self.warnings), "warning"))
        parts = [f"{n} {what}{_plural(n)}" for n, what in counts if n]
        return f"{self.n:,} row{_plural(self.n)}: {', '.join(parts) or 'nothing to mend'}"

    def _how_many(self, finding: Finding) -> str:
        return f"{len(finding.rows):,} ({len(finding.rows) / self.n:.1%})" if finding.rows else "–"

    def markdown(self) -> str:
        "The findings as a Markdown table."
        if not self.found:
            return self._headline() + "\n\n"
        lines = [
            self._headline(),
            "",
            "| severity | finding | rows | where | example | what to do |",
            "|---|---|---|---|---|---|",
        ]
        for f in self.found:
            cells = (f.severity, f.name, self._how_many(f), f.where, f.example, f.do)
            lines.append("| " + " | ".join(map(_markdown_cell, cells)) + " |")
        return "\n".join(lines)

    def __str__(self) -> str:
        lines = [self._headline()]
        for f in self.found:
            where = f", {f.where}" if f.where else ""
            lines.append(f"{f.severity:8} {f.name}: {self._how_many(f)}{where}")
            for text in (" ".join(f.example.split()), f.do):
                if text:
                    lines.append(f"         {text}")
        return "\n".join(lines)

    __repr__ = __str__
    _repr_markdown_ = markdown


def _plural(n: int) -> str:
    return "" if n == 1 else "s"


def _markdown_cell(text: str) -> str:
    return re.sub(r"([|\\`*_<>\[\]$])", r"\\\1", " ".join(text.split()))


@dataclass
class Sheet:
    "Rows prepared once for all checks."

    kind: str
    tokenizer: PreTrainedTokenizerBase | None = None
    max_length: int | None = None
    ends: set[int] = field(default_factory=set)  # tokens that end an answer
    test: list[dict] = field(default_factory=list)
    near: float = 90  # similarity of near duplicates, 0..100
    regions: tuple[str, ...] = ("BR", "US")
    rows: list[Row] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # of the rows in the source
    where: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)  # normalised, as the two below
    answers: list[list[str]] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)  # all turns of the row
    unusable: list[tuple[int, str, DataError]] = field(default_factory=list)
    tokens: list[TokenisedRow] = field(default_factory=list)
    left_out: list[list[str]] = field(default_factory=list)  # of each row, what reading leaves out
    columns: Counter = field(default_factory=Counter)  # name -> rows that have it
    seen: int = 0  # rows in the source
    files: set[str] = field(default_factory=set)  # that they come from
    progress: Callable[[int], None] | None = None

    def read(self, data: Source):
        "Keep each row, or the reason why it cannot be used; DataError when none can."
        with progress_bar(None, "reading") as progress:
            for where, given in addressed_rows(data):
                self.take(where, given)
                progress.update()
        if not self.rows:
            raise self.unusable[0][2] if self.unusable else no_rows(data)

    def take(self, where: str, given: dict | DataError):
        number = self.seen
        self.seen += 1
        self.files.add(where.rpartition(", ")[0])
        try:
            row = Row.read(given, self.kind, where)
        except DataError as e:
            self.unusable.append((number, where, e))
            return
        self.rows.append(row)
        self.numbers.append(number)
        self.where.append(where)
        self.left_out.append(not_read(given))
        self.columns.update(list(row.columns))
        self.asked.append(normalised_text(row.question))
        self.answers.append([normalised_text(answer) for answer in row.answers])
        self.whole.append(" → ".join(normalised_text(text) for _, text in row.turns))

    def findings(self, checks: Iterable[Callable[[Sheet], Iterator[Finding]]]) -> Findings:
        "Run the checks, and sort what they find by severity."
        passes = 1 if self.tokenizer is None else 2
        with progress_bar(len(self.rows) * passes, "checking") as progress:
            self.progress = progress.update
            found = [finding for check in checks for finding in check(self)]
        found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
        return Findings(
            found, self.seen, [row.length for row in self.tokens if not row.refused], self.max_length
        )

    def finding(
        self,
        name: str,
        severity: str,
        rows: Iterable[int],  # numbers in this sheet
        do: str,
        example: str = "",  # by default the first row
    ) -> list[Finding]:
        "One finding, or none when no row has the trouble."
        rows = sorted(set(rows))
        if not rows:
            return []
        places = first_places([self.where[i] for i in rows], len(self.files) > 1)
        where = places + (" …" if len(rows) > 3 else "")
        example = example or shorten(self.whole[rows[0]])
        return [Finding(name, severity, [self.numbers[i] for i in rows], where, example, do)]

    def finding_of_texts(
        self,
        name: str,
        look: Callable[[str], str],  # what is wrong in a text, as it stands; empty when nothing is
        do: str,
    ) -> list[Finding]:
        "A warning about the rows in which something is wrong, with the first of it as the example."
        found = [(i, wrong) for i, row in enumerate(self.rows) if (wrong := look(row.whole_text))]
        return self.finding(name, "warning", [i for i, _ in found], do, found[0][1] if found else "")

    def by_task(self) -> list[list[int]]:
        "Numbers of the rows of each task; one group where rows have none."
        groups = defaultdict(list)
        for i, row in enumerate(self.rows):
            groups[str(row.columns.get("task"))].append(i)
        return list(groups.values())


def first_places(
    where: list[str],  # addresses of rows
    several: bool = False,  # do they come from several files?
) -> str:
    "Addresses of the first three rows, with the file's name where there are several."
    return ", ".join(_short_address(address, several) for address in where[:3])


def _short_address(address: str, several: bool) -> str:
    file, _, row = address.rpartition(", ")
    return f"{Path(file).name} {row}" if several else row


def shorten(text: str, most: int = 70) -> str:
    "The beginning and the end of a text, without personal data."
    text = without_personal_data(text, within=COMPARED)
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


def _alike(a: str, b: str, score: float) -> str:
    return f"{shorten(a)} ≈ {shorten(b)} ({score:.0f} % alike)"


def unusable_rows(sheet: Sheet) -> Iterator[Finding]:
    if sheet.unusable:
        numbers, where, errors = zip(*sheet.unusable)
        places = first_places(list(where), len(sheet.files) > 1)
        do = "mend or remove them; training refuses the file"
        example = str(errors[0])[:200]
        yield Finding("unusable rows", "error", list(numbers), places, example, do)


def what_is_not_read(sheet: Sheet) -> Iterator[Finding]:
    "Columns and keys to which other tools give a meaning, and this guide none."
    counts = Counter(what for found in sheet.left_out for what in found)
    yield from sheet.finding(
        "not read",
        "warning",
        [i for i, found in enumerate(sheet.left_out) if found],
        "training does as if it were not there; remove it, or say it in the text",
        ", ".join(f"{what}: {n}" for what, n in counts.most_common()),
    )


READ_ELSEWHERE = {"task", "lang", "product", "label", "margin", "score_chosen", "score_rejected"}


def other_columns(sheet: Sheet) -> Iterator[Finding]:
    "A note of the columns that stay beside the rows."
    trained = {name for shape in KINDS[sheet.kind] for name in shape} | {"completion"}
    others = [
        (str(name)[:40], n) for name, n in sheet.columns.items() if name not in trained | READ_ELSEWHERE
    ]
    if others:
        some = ", ".join(f"{name}: {n:,}" for name, n in others[:20]) + " …" * (len(others) > 20)
        what = some.encode("utf-8", "backslashreplace").decode()
        yield Finding("other columns", "note", [], "", what, "they are kept, and no model sees them")


def prompts_repeated(sheet: Sheet) -> Iterator[Finding]:
    if sheet.kind == "corpus":
        return
    found = repeated_prompts(sheet.rows)
    yield from sheet.finding(
        "prompt repeated",
        "error" if len(found) > MOST * len(sheet.rows) else "warning",
        found,
        "the answer begins with its own prompt, which would be asked and then taught; take it out",
    )


def exact_and_near_duplicates(sheet: Sheet) -> Iterator[Finding]:
    first: dict[str, int] = {}
    again = [i for i, text in enumerate(sheet.whole) if first.setdefault(text, i) != i]
    yield from sheet.finding(
        "exact duplicates",
        "warning",
        again,
        "keep one of each: a copy counts twice, and leaks when it falls on the other side of a split",
    )
    once = list(first.values())
    texts = [sheet.whole[i] for i in once]
    near = near_duplicates(texts, least=sheet.near, progress=sheet.progress)
    example = next((_alike(texts[i], texts[j], score) for i, (j, score) in near.items()), "")
    yield from sheet.finding(
        "near duplicates",
        "warning",
        [once[i] for i in near],
        "keep one of each, unless the difference is the point",
        example,
    )


def contradictory_answers(sheet: Sheet) -> Iterator[Finding]:
    "Different answers to one prompt; of a conversation, to the same turns of the user."
    if sheet.kind != "sft":
        return
    answers: dict[str, dict[tuple, list]] = defaultdict(lambda: defaultdict(list))
    for i, (row, said) in enumerate(zip(sheet.rows, sheet.answers)):
        asked = " → ".join(normalised_text(text) for is_answer, text in row.turns if not is_answer)
        answers[asked][tuple(said)].append(i)
    several = {asked: by_answer for asked, by_answer in answers.items() if len(by_answer) > 1}
    example = ""
    for asked, by_answer in several.items():
        some = " / ".join(shorten(said[0], 30) for said in list(by_answer)[:3])
        example = f"{shorten(asked)} → {some}"
        break
    yield from sheet.finding(
        "contradictory answers",
        "warning",
        [i for by_answer in several.values() for rows in by_answer.values() for i in rows],
        "decide which answer is right; if all are, they belong in preference pairs",
        example,
    )


def leaks(sheet: Sheet) -> Iterator[Finding]:
    "Rows of the training data whose prompt is in the test data, word for word or nearly."
    if not sheet.test:
        return
    held_out = list(dict.fromkeys(map(question_key, sheet.test)))
    known = set(held_out)
    asked = [question_key(row.columns) for row in sheet.rows]
    yield from sheet.finding(
        "train/test leakage",
        "error",
        [i for i, question in enumerate(asked) if question in known],
        "remove these rows from the training data, or the test measures memory",
    )
    rest = [i for i, question in enumerate(asked) if question not in known]
    near = near_duplicates([asked[i] for i in rest], held_out, least=sheet.near)
    examples = (_alike(asked[rest[i]], held_out[j], score) for i, (j, score) in near.items())
    yield from sheet.finding(
        "near leakage",
        "warning",
        [rest[i] for i in near],
        "the test has almost this prompt; remove the rows, or the test measures memory",
        next(examples, ""),
    )


ORDERS = r"""
    summar\w* resum\w* classif\w* translat\w* traduz\w* tradu[cç]\w* rewrit\w* reescrev\w*
    explain expliqu?\w* anal[yi]s\w* writ\w* escrev\w* improv\w* melhor\w* correct\w* corrij\w* corrig\w* fix
    describe descrev\w* answer respond\w* help ajud\w* generat\w* ger[ae]r? creat\w* cri[ae]r?
    extract extra\w* list\w* make fa[cç]a do tell diga
"""
POINTERS = r"""
    this that it these those isso isto este esta esse essa ele ela the a an o os as um uma me
    for to of de em in please por favor text\w* article artigo following seguinte
    above acima below abaixo sentence frase document\w* message mensagem
"""
# orders, and words that point at something which is not there
EMPTY_WORD = re.compile("|".join((ORDERS + POINTERS).split()))


def vague_prompts(sheet: Sheet) -> Iterator[Finding]:
    "Prompts that consist of orders and of words that point at nothing."
    yield from sheet.finding(
        "vague prompts",
        "warning",
        [i for i, asked in enumerate(sheet.asked) if _is_vague(asked)],
        "write what the prompt is about into the prompt",
    )


def _is_vague(asked: str) -> bool:
    return len(asked) < 200 and all(EMPTY_WORD.fullmatch(word) for word in WORD.findall(asked))


def unfilled_templates(sheet: Sheet) -> Iterator[Finding]:
    yield from sheet.finding_of_texts(
        "unfilled templates", placeholder, "put the real text where the placeholder stands"
    )


def wrong_encoding(sheet: Sheet) -> Iterator[Finding]:
    yield from sheet.finding_of_texts(
        "wrong encoding",
        mojibake,
        "the text was read in another encoding than it was written in; read its source again as UTF-8",
    )


def truncated_answers(sheet: Sheet) -> Iterator[Finding]:
    """Answers that end with an ellipsis, or without a full stop where nine in ten of that task have one.

    A closing quote, a bracket and an emoji are full stops too."""
    cut = [i for i, said in enumerate(sheet.answers) if any(map(ends_with_ellipsis, said))]
    for rows in sheet.by_task() if sheet.kind != "corpus" else ():
        long = [i for i in rows if len(sheet.answers[i][0].split()) >= 8]
        open_end = [i for i in long if not ends_like_a_sentence(sheet.answers[i][0])]
        if len(long) >= 20 and len(open_end) <= 0.1 * len(long):
            cut += open_end
    yield from sheet.finding(
        "truncated answers",
        "warning",
        cut,
        "finish the answer or remove the row; the model learns to stop there",
    )


TRANSLATE = re.compile(r"translat|tradu[zc]|tradução|" + "|".join(SMALL_WORDS), re.I)


def mixed_languages(sheet: Sheet) -> Iterator[Finding]:
    "Answers in another language than their prompt, where nine in ten of that task answer in the same."
    found: list[int] = []
    example = ""
    for rows in sheet.by_task() if sheet.kind != "corpus" else ():
        answered = [(i, said) for i in rows if (said := language(sheet.answers[i][0]))]
        known = [(i, asked, said) for i, said in answered if (asked := language(sheet.asked[i]))]
        other = [(i, asked, said) for i, asked, said in known if asked != said]
        if len(known) < 20 or len(other) > 0.1 * len(known):
            continue
        other = [row for row in other if not TRANSLATE.search(sheet.asked[row[0]])]
        found += [i for i, *_ in other]
        if other and not example:
            i, asked, said = other[0]
            example = f"asked in {asked}, answered in {said}: {shorten(sheet.whole[i])}"
    do = "answer in the language of the prompt, or name the other one in it"
    yield from sheet.finding("mixed languages", "warning", found, do, example)


SYSTEM_PROMPT = re.compile(
    r"<<sys>>|\[inst\]|<\|?(?:im_start|system|sys)\|?>|#{2,3} ?(?:instruction|system|instrução)\b|system: "
    r"|(?:you are|act as) an? (?:[\w-]+,? ){0,4}(?:assistant|ai|chatbot|language model)\b"
    r"(?! (?:manager|professor|director|coach|editor|teacher))"
    r"|você é um[a]? (?:[\w-]+,? ){0,4}(?:assistente|ia|chatbot|modelo de linguagem)\b"
)


def system_prompts_in_answers(sheet: Sheet) -> Iterator[Finding]:
    "Answers that begin as a system prompt does, or that repeat their row's."
    found = []
    for i, (row, said) in enumerate(zip(sheet.rows, sheet.answers)):
        own = [text for text in map(normalised_text, row.system_texts) if len(text) >= 20]
        if any(SYSTEM_PROMPT.match(text) or any(part in text for part in own) for text in said):
            found.append(i)
    yield from sheet.finding(
        "system prompt in answers",
        "warning",
        found,
        "take it out of the answer; the model would recite it",
    )


def unbalanced_labels(sheet: Sheet) -> Iterator[Finding]:
    "Of each task with few different answers: is one of them the answer in 80 % of the rows?"
    for rows in sheet.by_task() if sheet.kind == "sft" else ():
        count = Counter(sheet.answers[i][0] for i in rows)
        if len(rows) < 20 or len(count) > min(20, len(rows) / 10):
            continue  # free text
        label, most = count.most_common(1)[0]
        share = most / len(rows)
        if share < 0.8 or not _above_chance(most, len(rows), len(count)):
            continue
        yield from sheet.finding(
            "unbalanced labels",
            "warning",
            [i for i in rows if sheet.answers[i][0] != label] or rows,
            "collect more of the others, and compare accuracy with that number",
            f"always answering {shorten(label, 30)!r} is right in {share:.0%} of {len(rows):,} rows",
        )


def _above_chance(most: int, n: int, labels: int) -> bool:
    "Is one of so many equally likely labels drawn that often less than once in a thousand times?"
    from scipy.stats import binomtest

    return labels == 1 or binomtest(most, n, 1 / labels, alternative="greater").pvalue < 0.001


def rows_with_personal_data(sheet: Sheet) -> Iterator[Finding]:
    kinds, rows = Counter(), []
    for i, row in enumerate(sheet.rows):
        found = personal_data(row.whole_text, sheet.regions)
        kinds.update(what for what, _ in found)
        if found:
            rows.append(i)
    yield from sheet.finding(
        "personal data",
        "warning",
        rows,
        "replace it by invented data; a model can repeat what it was trained on",
        ", ".join(f"{what}: {n}" for what, n in kinds.most_common()),
    )


def pairs_without_preference(sheet: Sheet) -> Iterator[Finding]:
    if sheet.kind == "pairs":
        yield from sheet.finding(
            "chosen equals rejected",
            "error",
            [i for i, (chosen, rejected) in enumerate(sheet.answers) if chosen == rejected],
            "they differ in case or spaces only; remove the pair",
        )


def contradicting_scores(sheet: Sheet) -> Iterator[Finding]:
    "Pairs whose own scores, such as score_chosen and score_rejected, do not prefer the chosen answer."
    if sheet.kind == "pairs":
        rows, says = contradicting([row.columns for row in sheet.rows])
        do = "turn these pairs round, or leave them out; training prefers the chosen answer all the same"
        yield from sheet.finding("scores say otherwise", "warning", rows, do, says)


def circular_preferences(sheet: Sheet) -> Iterator[Finding]:
    "A over B, B over C, C over A: no model agrees with all three."
    if sheet.kind != "pairs":
        return
    by_prompt, circular, example = defaultdict(list), [], ""
    for i, asked in enumerate(sheet.asked):
        by_prompt[asked].append(i)
    for rows in by_prompt.values():
        ring = _cycle([sheet.answers[i] for i in rows])
        steps = set(pairwise(ring))
        circular += [i for i in rows if tuple(sheet.answers[i]) in steps]
        if ring and not example:
            example = " > ".join(shorten(text, 24) for text in ring)
    yield from sheet.finding(
        "circular preferences",
        "error",
        circular,
        "no model can satisfy them; keep the judgement you trust, or drop the prompt",
        example,
    )


def _cycle(
    pairs: list[list[str]],  # chosen and rejected
) -> list[str]:  # each preferred to the next, the last is the first; empty when there is none
    graph = TopologicalSorter()
    for chosen, rejected in pairs:
        if chosen != rejected:
            graph.add(rejected, chosen)
    try:
        graph.prepare()
    except CycleError as e:
        return e.args[1]
    return []


def length_bias(sheet: Sheet) -> Iterator[Finding]:
    "Is the longer (or the shorter) answer chosen so often that DPO may learn length? A sign test."
    if sheet.kind != "pairs":
        return
    from scipy.stats import binomtest

    differences = [len(chosen) - len(rejected) for chosen, rejected in sheet.answers]
    longer = [i for i, difference in enumerate(differences) if difference > 0]
    shorter = [i for i, difference in enumerate(differences) if difference < 0]
    decided = len(longer) + len(shorter)
    side, rows = ("longer", longer) if len(longer) > len(shorter) else ("shorter", shorter)
    if not decided or len(rows) / decided < 0.6:
        return
    p = binomtest(len(rows), decided, 0.5).pvalue
    if p >= 0.01:
        return
    yield from sheet.finding(
        "length bias",
        "warning",
        rows,
        "DPO may learn length instead of quality; add pairs where the other side wins, "
        "or look at lengths after training",
        f"the {side} answer is chosen in {len(rows) / decided:.0%} of {decided:,} pairs "
        f"(sign test, p = {p:.0e})",
    )


def template_faults(sheet: Sheet) -> Iterator[Finding]:
    "What only the tokens show: conversations refused, missing end tokens, prompts that change."
    if sheet.tokenizer is None:
        return
    rows = [row.columns for row in sheet.rows]
    sheet.tokens = tokenised(sheet.tokenizer, rows, sheet.kind, progress=sheet.progress)
    for fault, do in FAULTS.items():
        found = [i for i, row in enumerate(sheet.tokens) if fault in row.faults]
        severity = "warning" if fault in NOTES else "error"
        yield from sheet.finding(fault, severity, found, do, _why(sheet, fault, found))
    answers = [(i, row) for i, row in enumerate(sheet.tokens) if not row.refused and sheet.kind != "corpus"]
    yield from sheet.finding(
        "no end token",
        "error",
        [i for i, row in answers if not row.ends(sheet.ends or {sheet.tokenizer.eos_token_id})],
        "the model would never learn to stop; "
        "the chat template must end the answer with the tokenizer's end token",
    )
    yield from sheet.finding(
        "prompt changes",
        "error",
        [i for i, row in answers if row.changed > 1],
        "the prompt's tokens are others once the answer follows, so the loss starts at the wrong token; "
        "mend the chat template",
    )
    yield from sheet.finding(
        "prompt's end changes",
        "warning",
        [i for i, row in answers if row.changed == 1],
        "the prompt's last token joins the answer's first; "
        "begin the answer without spaces, or end the template's prompt with a special token",
    )


def _why(sheet: Sheet, fault: str, rows: list[int]) -> str:
    "What the template or the tokenizer says of the first of these rows."
    return next(filter(None, (sheet.tokens[i].reason(fault) for i in rows)), "")


def rows_too_long(sheet: Sheet) -> Iterator[Finding]:
    "Rows that training cuts; runs after `template_faults`, which measures them."
    if sheet.tokenizer is None or sheet.max_length is None:
        return
    known = [(i, row) for i, row in enumerate(sheet.tokens) if not row.refused]
    blind = [
        i for i, row in known if any(part.start >= min(len(part.ids), sheet.max_length) for part in row.parts)
    ]
    yield from sheet.finding(
        "no trained token",
        "error",
        blind if sheet.kind != "corpus" else [],
        "the prompt fills the whole length, so nothing is learnt; shorten it or raise max_length",
    )
    cut = [i for i, row in known if row.length > sheet.max_length]
    longest = max((row.length for _, row in known), default=0)
    yield from sheet.finding(
        "cut answers",
        "error",
        cut,
        "training cuts them before their end token; shorten them or raise max_length",
        f"{len(cut) / len(sheet.rows):.1%} of the rows are longer than {sheet.max_length} tokens, "
        f"the longest has {longest:,}",
    )


FOLKLORE = {"sft": "“at least 500 rows”", "pairs": "“at least 1,000 pairs”", "corpus": "“100,000 documents”"}


def few_rows(sheet: Sheet) -> Iterator[Finding]:
    "A note when a test tenth would be too small to see a difference."
    n = len(sheet.rows)
    if n >= 1000:
        return
    half_width = min(0.98 / max(n // 10, 1) ** 0.5, 0.5)  # of a 95 % interval around one half
    yield Finding(
        "few rows",
        "note",
        [],
        "",
        f"a test of one tenth holds {n // 10} rows: "
        f"an accuracy of 50 % is known to ±{100 * half_width:.0f} points",
        f"{FOLKLORE[sheet.kind]} is folklore. Train on a quarter, a half and all of them; "
        "while the curve still rises, more rows pay",
    )


CHECKS = (
    unusable_rows,
    what_is_not_read,
    other_columns,
    prompts_repeated,
    exact_and_near_duplicates,
    contradictory_answers,
    leaks,
    vague_prompts,
    unfilled_templates,
    wrong_encoding,
    truncated_answers,
    mixed_languages,
    system_prompts_in_answers,
    unbalanced_labels,
    rows_with_personal_data,
    pairs_without_preference,
    contradicting_scores,
    circular_preferences,
    length_bias,
    template_faults,
    rows_too_long,
    few_rows,
)


def require_libraries():
    "ModuleNotFoundError that says how to install what `check` needs beyond the core."
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"checking data needs {', '.join(missing)}: pip install 'ftguide[check]'")
