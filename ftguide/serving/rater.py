"Rating answers in a notebook: one after the other, or two side by side without saying which is whose."

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

try:
    import ipywidgets as widgets
except ModuleNotFoundError:
    raise ModuleNotFoundError("rating in a notebook needs ipywidgets: pip install ipywidgets") from None

from ftguide.models import LM, load, reply
from ftguide.serving.errors import FeedbackError
from ftguide.serving.votes import Feedback

THUMBS = {"👍 good": True, "👎 bad": False}
CHOICES = {"left is better": "a", "right is better": "b", "equally good": "tie"}


@dataclass
class Answer:
    text: str
    version: str


@dataclass
class Question:
    "What is shown at once: one answer, or two for a choice."

    prompt: str
    answers: list[Answer]


def rate(
    what: list[dict] | LM | str | Path,  # rows of prompt and answer (👍 👎), or prompt, a and b; or a model
    store: Feedback | str | Path,
    prompts: list[str] | None = None,  # for a model: it answers each twice
    version: str = "",  # of the answers, where a row has no version, version_a or version_b
    rater: str = "me",
    n: int = 20,  # rows, drawn at random
    seed: int = 0,
    max_new_tokens: int = 96,
    pause_s: float = 0.3,  # a click sooner after the last one is a double click, and ignored
) -> widgets.VBox:
    "Rate answers in a notebook; each click is kept at once."
    rng = random.Random(seed)
    if not isinstance(what, list):
        if not prompts:
            raise FeedbackError("a model needs prompts to answer: rate(model, store, prompts=[...])")
        lm = load(what)
        version = version or lm.name
        asked = rng.sample(list(prompts), min(n, len(prompts)))
        what = _two_answers_each(lm, asked, seed, max_new_tokens)
    questions = _questions(what, version, n, rng)
    store = store if isinstance(store, Feedback) else Feedback(store)
    return RatingSheet(questions, store, rater, pause_s).box


def _two_answers_each(lm: LM, prompts: list[str], seed: int, max_new_tokens: int) -> list[dict]:
    "Rows of prompt, a and b, where the model's two answers differ."
    twice = [prompt for prompt in prompts for _ in range(2)]
    said = reply(lm, twice, max_new_tokens, temperature=1.0, seed=seed)
    rows = zip(prompts, said[::2], said[1::2])
    return [dict(prompt=prompt, a=a, b=b) for prompt, a, b in rows if a != b]


def _questions(rows: list[dict], version: str, n: int, rng: random.Random) -> list[Question]:
    "At most n of the rows; of a choice the sides in random order."
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict) and "prompt" in row and ("answer" in row or {"a", "b"} <= set(row)):
            continue
        found = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise FeedbackError(
            f"row {number}: columns found: {found}; expected prompt and answer, or prompt, a and b"
        )
    questions = []
    for row in rng.sample(rows, min(n, len(rows))):
        names = ["answer"] if "answer" in row else ["a", "b"]
        answers = []
        for name in names:
            own = row.get(f"version_{name}", row.get("version", version))
            answers.append(Answer(row[name], own or "unknown"))
        questions.append(Question(row["prompt"], rng.sample(answers, len(answers)) if names[1:] else answers))
    if not questions:
        raise FeedbackError("nothing to rate: no rows, or the two answers are the same everywhere")
    if len({len(question.answers) for question in questions}) > 1:
        raise FeedbackError(
            "rows with one answer and rows with two cannot be mixed; rate them one after the other"
        )
    return questions


class RatingSheet:
    "Fields and buttons that go through questions; `box` is what a notebook shows."

    def __init__(self, questions: list[Question], store: Feedback, rater: str, pause_s: float):
        self.questions = questions
        self.store = store
        self.rater = rater
        self.pause_s = pause_s
        self.position = 0
        self.rated: set[int] = set()  # positions
        self.clicks = 0
        self.last_click_s = 0.0
        self.session = os.urandom(6).hex()
        two = len(questions[0].answers) == 2
        meanings = CHOICES if two else THUMBS
        self.where = widgets.Label()
        self.prompt = _text_field("Prompt", 5)
        self.answers = [_text_field(label, 7) for label in (("Left", "Right") if two else ("Answer",))]
        self.note = widgets.Text(description="Why?", placeholder="optional")
        self.buttons = [
            *[self._button(label, partial(self.keep, said)) for label, said in meanings.items()],
            self._button("skip", partial(self.move, 1)),
            self._button("back", partial(self.move, -1)),
        ]
        shown = widgets.HBox(self.answers) if two else self.answers[0]
        self.box = widgets.VBox([self.where, self.prompt, shown, self.note, widgets.HBox(self.buttons)])
        self.show()

    def _button(self, label: str, act: Callable[[], None]) -> widgets.Button:
        button = widgets.Button(description=label, tooltip=label)
        button.on_click(partial(self.click, act))
        return button

    def click(self, act: Callable[[], None], _button: widgets.Button) -> None:
        if time.monotonic() - self.last_click_s < self.pause_s:
            return
        try:
            act()
        except FeedbackError as e:
            self.where.value = str(e)
        else:
            self.last_click_s = time.monotonic()
            self.show()

    def keep(self, said: str | bool) -> None:
        "Store what was said about the question that is shown, and go to the next."
        question = self.questions[self.position]
        texts = [answer.text for answer in question.answers]
        versions = [answer.version for answer in question.answers]
        self.clicks += 1
        record = self.store.choose if len(texts) == 2 else self.store.vote
        key = f"{self.session}-{self.clicks}"
        record(question.prompt, *texts, *versions, said, rater=self.rater, note=self.note.value, key=key)
        self.rated.add(self.position)
        self.move(1)

    def move(self, by: int) -> None:
        self.position = min(max(self.position + by, 0), len(self.questions))

    def show(self) -> None:
        "Fill the fields with the question at the current position, or say that it was the last."
        over = self.position >= len(self.questions)
        for button in self.buttons:
            button.disabled = over and button.description != "back"
        if over:
            done = f"done: {len(self.rated)} of {len(self.questions)} rated"
            self.where.value = f"{done}, kept in {self.store.path}"
            prompt, texts = "", [""] * len(self.answers)
        else:
            self.where.value = f"{self.position + 1} of {len(self.questions)}"
            question = self.questions[self.position]
            prompt, texts = question.prompt, [answer.text for answer in question.answers]
        self.prompt.value = prompt
        for field, text in zip(self.answers, texts):
            field.value = text
        self.note.value = ""


def _text_field(label: str, lines: int) -> widgets.Textarea:
    return widgets.Textarea(description=label, disabled=True, rows=lines, layout=widgets.Layout(width="100%"))
