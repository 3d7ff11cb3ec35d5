"The page for asking and voting, made with gradio: fields, buttons, and how it is opened."

# Questions, answers and notes only ever stand in text fields; the two places that are HTML, a line of
# messages and the table of numbers, escape every word.

from __future__ import annotations

import hmac
import html
import ipaddress
import os
import socket
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from jinja2 import Environment, PackageLoader

from ftguide.engine.loading import is_own_name
from ftguide.serving.actions import WRITING, PageActions, ServedModel
from ftguide.serving.connections import PageServer, listen
from ftguide.serving.errors import PageError
from ftguide.serving.guard import Proxies, RequestGuard
from ftguide.serving.limits import DEFAULT_LIMITS, Limits
from ftguide.serving.votes import Feedback

HERE = Path(__file__).parent
TEMPLATES = Environment(loader=PackageLoader("ftguide.serving", "."), autoescape=True)
SHOW_EVERY_S = 0.04  # pieces of all answers of a batch together; each travels to the browser on its own
COUNT_EVERY_S = 1.0  # numbers are counted once in this time, however many ask
THUMBS = {"up": "👍 Good answer", "down": "👎 Bad answer"}
CHOICES = {"a": "A is better", "b": "B is better", "tie": "No difference"}
SYSTEM_FONTS = dict(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))
# What gradio does by default and this page does not: keep a history of questions, show links and errors of
# its own, serve a second page for scripts or telephones.
NOTHING_ELSE = dict(
    footer_links=[],
    run_history=False,
    show_error=False,
    enable_monitoring=False,
    mcp_server=False,
    ssr_mode=False,
    pwa=False,
    root_path="",
)


def page(
    folder: str | Path,  # of a model, what `deploy` wrote, or tiny, tiny-small, smollm2-135m
    against: str | Path | None = None,  # another one, to compare with
    store: str | Path | None = None,  # file of the votes; FOLDER/feedback.db
    limits: Limits = DEFAULT_LIMITS,
    temperature: float = 0.0,  # 0 = every visitor gets the same answer; above, by chance
) -> gr.Blocks:
    "The page: ask, vote, compare, numbers. PageError, ModelError or FeedbackError when it cannot work."
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    if not temperature >= 0:
        raise PageError(f"temperature must be 0 or more, not {temperature}")
    if store is None and is_own_name(folder):
        raise PageError(
            f"{folder} is one of the guide's models, whose folder is no place for votes; "
            "say where to keep them: --store votes.db"
        )
    writer = dict(
        max_new_tokens=limits.answer,
        temperature=temperature,
        rows=limits.at_once,
        every_s=SHOW_EVERY_S,
    )
    served = ServedModel(folder, **writer)
    rival = None if against is None else ServedModel(against, beside=served.folder, **writer)
    if rival and rival.place == served.place and not temperature:
        raise PageError(
            f"{folder} and {against} are the same model, whose answers are always the same; "
            "compare with another, or set a temperature"
        )
    actions = PageActions(served, rival, Feedback(store or served.folder / "feedback.db"), limits)
    numbers = NumbersTable(actions.pending.store)
    with gr.Blocks(title="Ask and vote", analytics_enabled=False) as blocks:
        gr.HTML("<h1>Ask and vote</h1>")
        with gr.Tab("Ask"):
            Panel("ask", actions, actions.ask, actions.vote, ["Answer"], THUMBS)
        if rival:
            with gr.Tab("Compare"):
                Panel("compare", actions, actions.compare, actions.choose, ["Answer A", "Answer B"], CHOICES)
        with gr.Tab("Numbers") as tab:
            table = gr.HTML(elem_classes="numbers")
            again = gr.Button("Count again")
        for event in (tab.select, again.click, gr.Timer(5).tick, blocks.load):
            event(numbers.html, None, table, show_progress="hidden", queue=False, api_name="numbers")
    return blocks.queue(api_open=False, max_size=limits.waiting)


class Panel:
    """A question, the answers to it, and the buttons that judge them.

    They wake up when there is something to judge."""

    def __init__(
        self,
        name: str,  # of the event and of the elements' ids
        actions: PageActions,
        ask: Callable[..., Iterator[tuple]],  # (prompt, request) -> (*answers, key or None, what to say)
        press: Callable[..., str],  # (key, choice, note, request) -> what to say
        labels: list[str],  # one an answer
        choices: dict[str, str],  # choice -> text of its button
    ):
        self.actions = actions
        self.ask = ask
        self.press = press
        prompt = self._field("Your question", f"{name}-prompt", actions.limits.prompt, lines=2, max_lines=8)
        go = gr.Button("Ask", variant="primary", elem_id=f"{name}-go")
        with gr.Row():
            self.answers = [self._answer(label, f"{name}-answer-{i}") for i, label in enumerate(labels)]
        note = self._field("Note (optional)", f"{name}-note", actions.limits.note, lines=1, max_lines=4)
        with gr.Row():
            self.buttons = [
                gr.Button(text, interactive=False, min_width=100, elem_id=f"{name}-{choice}")
                for choice, text in choices.items()
            ]
        line = gr.HTML(_paragraph(""), elem_classes="say", elem_id=f"{name}-say")
        key = gr.State(None)  # gradio keeps it on the server; the browser knows which visit it belongs to
        go.click(
            self.asked,
            [prompt],
            [*self.answers, key, line, note, *self.buttons],
            api_name=name,
            show_progress="hidden",
            concurrency_limit=actions.limits.at_once,
            concurrency_id="answers",
        )
        for button, choice in zip(self.buttons, choices):
            button.click(
                Judge(self, choice),
                [key, note],
                [key, line, *self.buttons],
                api_name=f"{press.__name__}_{choice}",
                show_progress="hidden",
                queue=False,
            )

    @staticmethod
    def _field(label: str, elem_id: str, max_length: int, **size: int) -> gr.Textbox:
        return gr.Textbox(label=label, elem_id=elem_id, max_length=max_length, **size)

    @staticmethod
    def _answer(label: str, elem_id: str) -> gr.Textbox:
        return gr.Textbox(
            label=label, elem_id=elem_id, lines=6, max_lines=1000, interactive=False, min_width=240
        )

    def enabled(self, yes: bool) -> list:
        return [gr.update(interactive=yes)] * len(self.buttons)

    def asked(self, prompt, request: gr.Request):
        "The answers while they are written; gradio calls this, and `request` is told by its type."
        yield *[""] * len(self.answers), None, _paragraph(WRITING), "", *self.enabled(False)
        try:
            for *texts, key, says in self.ask(prompt, request):
                yield *texts, key, _paragraph(says), gr.skip(), *self.enabled(key is not None)
        except Exception as e:
            unchanged = [gr.skip()] * len(self.answers)
            said = _paragraph(_reason(e, self.actions.pending.store))
            yield *unchanged, None, said, gr.skip(), *self.enabled(False)


class Judge:
    "What one button of a panel does."

    def __init__(self, panel: Panel, choice: str):
        self.panel = panel
        self.choice = choice
        self.__name__ = choice

    def __call__(self, key, note, request: gr.Request):
        pending = self.panel.actions.pending
        try:
            says = self.panel.press(key, self.choice, note, request)
        except Exception as e:
            says = _reason(e, pending.store)
        waits = key in pending.open  # still, when the vote could not be stored
        return key if waits else None, _paragraph(says), *self.panel.enabled(waits)


class NumbersTable:
    "What the store says now, with 95 % intervals."

    def __init__(self, store: Feedback):
        self.store = store
        self.counted_s = float("-inf")
        self.shown = ""

    def html(self) -> str:
        if time.monotonic() - self.counted_s > COUNT_EVERY_S:
            try:
                self.counted_s, self.shown = time.monotonic(), numbers_html(self.store.numbers())
            except Exception as e:
                return _paragraph(_reason(e, self.store))
        return self.shown


def numbers_html(numbers: dict) -> str:  # of `Feedback.numbers`
    "Tables whose cells are text, whatever is written in them."
    total = [
        ["votes", numbers["votes"]],
        ["share of thumbs up", _score(numbers["share_up"])],
        ["choices between two answers", numbers["choices"]],
        ["clicks replaced by a later one of the same person", numbers["repeated"]],
    ]
    each = [
        [version, v["votes"], _score(v["share_up"]), v["choices"], _score(v["win_rate"])]
        for version, v in numbers["by_version"].items()
    ]
    head = ["version", "votes", "thumbs up", "choices", "win rate"]
    return TEMPLATES.get_template("numbers.html").render(tables=[(["what", "number"], total), (head, each)])


def _score(score) -> str:
    return "no vote yet" if score is None else str(score)


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _reason(e: Exception, store: Feedback) -> str:
    """An error as visitors may read it.

    No path of the server, and of our own mistakes only that there was one."""
    if isinstance(e, (ValueError, OSError)):
        return str(e).replace(str(store.path), "the store")
    traceback.print_exception(e)
    return "Something went wrong on the server; its log says what."


def serve(
    folder: str | Path,  # of a model, what `deploy` wrote, or tiny, tiny-small, smollm2-135m
    against: str | Path | None = None,  # another one, to compare with
    store: str | Path | None = None,  # file of the votes; FOLDER/feedback.db
    host: str = "127.0.0.1",  # who may reach the page; beyond this machine only with a password
    port: int = 7860,
    password: str | None = None,  # at least 8 characters; visitors give it with any name
    limits: Limits = DEFAULT_LIMITS,
    temperature: float = 0.0,  # 0 = every visitor gets the same answer; above, by chance
    wait: bool = True,  # until Ctrl-C; False returns at once
    proxies: Collection[
        str
    ] = (),  # addresses of proxies that say where a visitor comes from; nobody else may
) -> OpenPage:
    "Open the page. PageError, ModelError or FeedbackError says in one line why it cannot be."
    known_proxies = Proxies(proxies)
    if password is None and (proxies or not _is_local(host)):
        what = "--proxy" if proxies else f"--host {host}"
        raise PageError(f"{what} lets others in: give a --password, or leave the page at 127.0.0.1")
    if password is not None and len(password) < 8:
        raise PageError("the password needs 8 characters or more")
    listener = listen(host, port)
    try:
        blocks = page(folder, against, store, limits, temperature)
        hosts = {host, "localhost", "127.0.0.1", "::1"} if _is_local(host) and not proxies else None
        opened = OpenPage(
            blocks, RequestGuard(_asgi(blocks, password), hosts, limits, known_proxies), listener
        )
    except BaseException:
        listener.close()
        raise
    if not wait:
        return opened
    print(f"The page is at http://{host}:{port}. Ctrl-C ends it.", flush=True)
    try:
        while True:
            time.sleep(3600)
    finally:
        opened.close()


def _asgi(blocks: gr.Blocks, password: str | None) -> FastAPI:
    return gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        blocks,
        path="/",
        auth=Login(password) if password else None,
        auth_message="Any name will do; it is kept with your votes.",
        theme=gr.themes.Base(**SYSTEM_FONTS),
        css=(HERE / "page.css").read_text(encoding="utf-8"),
        js=(HERE / "page.js").read_text(encoding="utf-8"),
        app_kwargs=dict(docs_url=None, redoc_url=None, openapi_url=None),
        **NOTHING_ELSE,
    )


class OpenPage:
    "A page that is served; `close()` ends it."

    def __init__(self, blocks: gr.Blocks, guard: RequestGuard, listener: socket.socket):
        self.blocks = blocks
        self.server = PageServer(guard, listener, guard.limits, guard.proxies)

    def close(self) -> None:
        self.blocks.close(verbose=False)  # the queue of questions
        self.server.close()


class Login:
    "Any name of up to 40 characters with the right password."

    def __init__(self, password: str):
        self.password = password

    def __call__(self, name: str, given: str) -> bool:
        return 0 < len(name) <= 40 and hmac.compare_digest(given.encode(), self.password.encode())


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
