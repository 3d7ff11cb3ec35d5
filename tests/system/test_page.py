"The page of `ftguide serve`, in Chromium and over HTTP: asked, voted on, attacked, visited by twenty."

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from statistics import median

import pytest
from ports import free_port

pytest.importorskip("gradio")
import httpx
from deployed import put
from typer.testing import CliRunner

from ftguide.cli import app
from ftguide.engine.loading import shipped_folder
from ftguide.engine.statistics import quantile
from ftguide.market import load_tasks
from ftguide.models import load, reply
from ftguide.serving.load_test import PageClient, load_test
from ftguide.serving.page import numbers_html
from ftguide.serving.votes import Feedback

try:
    from selenium.common.exceptions import StaleElementReferenceException as Stale
except ImportError:
    Stale = ()  # the tests in a browser are skipped

SCRIPT = "<script>document.title = 'stolen'</script><img src=x onerror=\"document.title='stolen'\">"
NAME = "<img src=x onerror=alert(1)>${document.title='stolen'}{{x}}"  # a folder may be called so
LOAD_S = float(os.environ.get("FTGUIDE_LOAD_SECONDS", 8))


def wait(what, seconds=60):
    "What `what` returns as soon as it is true; an element that was just drawn anew is looked for again."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(Stale):
            if found := what():
                return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


class Server:
    "`ftguide serve` as a process of its own."

    def __init__(self, log, *arguments, before="", **env):
        self.port, self.log = free_port(), log
        self.url = f"http://127.0.0.1:{self.port}"
        program = f"{before}\nfrom ftguide.cli import main\nmain()"
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, "serve", *map(str, arguments), "--port", str(self.port)],
                stdout=out,
                stderr=out,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **env},
            )

    def __enter__(self):
        try:
            wait(lambda: "The page is at" in self.log.read_text() or self.process.poll() is not None, 120)
        except BaseException:
            self.__exit__()
            raise
        assert self.process.poll() is None, self.log.read_text()
        return self

    def __exit__(self, *_):
        self.process.terminate()  # not killed at once: coverage still writes down which lines ran
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "A page with a deployed model and another one, whose folder has a hostile name."
    top = tmp_path_factory.mktemp("page")
    put(top / "ads", "tiny-small")
    shutil.copytree(shipped_folder("tiny"), top / NAME)
    with Server(
        top / "log", top / "ads", "--against", top / NAME, "--max-new-tokens", 24, "--per-minute", 100_000
    ) as server:
        server.folder, server.store = top / "ads", Feedback(top / "ads/feedback.db")
        yield server


# what cannot be opened


def test_errors_are_one_line(tmp_path):
    put(tmp_path / "ads", "tiny-small")
    (tmp_path / "empty").mkdir()
    newer, other = tmp_path / "newer.db", tmp_path / "other.db"
    Feedback(newer)
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    other.write_text("not a database, but long enough to be taken for one" * 100)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for arguments, says in [
            (["ads", "--host", "0.0.0.0"], "--password"),
            (["ads", "--host", "0.0.0.0", "--password", "short"], "8 characters"),
            (["ads", "--port", str(taken.getsockname()[1])], "--port"),
            (["ads", "--port", "70000"], "between 1 and 65535"),
            (["nowhere"], "no folder"),
            (["empty"], "config.json"),
            (["ads", "--store", newer], "newer ftguide"),
            (["ads", "--store", other], "not a store"),
            (["ads", "--against", tmp_path / "ads/v1"], "same model"),
            (["tiny"], "--store"),
            (["ads", "--per-minute", "0"], "above 0"),
            (["ads", "--temperature", "-1"], "temperature"),
            (["ads", "--host", "no.such.host.invalid", "--password", "long enough"], "cannot listen"),
        ]:
            folder = arguments[0] if arguments[0] == "tiny" else str(tmp_path / arguments[0])
            done = CliRunner().invoke(app, ["serve", folder, *map(str, arguments[1:])])
            assert (
                done.exit_code == 2 and says in done.output and len(done.output.strip().splitlines()) == 1
            ), (arguments, done.output, done.exception)


def test_numbers_are_text_whatever_is_written_in_them():
    name = "<img src=x onerror=alert(1)>"
    numbers = dict(votes=1, share_up=None, choices=0, repeated=0)
    each = dict(votes=1, share_up=None, choices=0, win_rate=None)
    shown = numbers_html(dict(numbers, by_version={name: each}))
    assert "<img" not in shown and "&lt;img" in shown


# over HTTP


def test_a_vote_counts_once_and_cannot_be_forged(site):
    visitor, before = PageClient(site.url), len(site.store.rows())
    assert "no answer here" in visitor.press("vote_up")  # nothing was asked
    (answer, says), *_ = visitor.ask("Once")
    assert answer == reply(load("tiny-small"), "Once", 24) and says == "Is it a good answer?"
    assert visitor.press("choose_a").startswith("there is no answer")  # an answer is not a comparison
    assert visitor.press("vote_down", "a note").startswith("Thank you")
    assert "already" in visitor.press("vote_up")
    thief = PageClient(site.url)
    key = site.store.rows()[-1]["key"]
    assert "no answer here" in thief.press("vote_up", key=key)  # the key of a vote that was cast
    visitor.ask("Twice")
    assert "no answer here" in thief.press("vote_up", key="a-guess")
    rows = site.store.rows()[before:]
    assert [(r["prompt"], r["answer"], r["up"], r["note"], r["version"]) for r in rows] == [
        ("Once", answer, False, "a note", "v1")
    ]


def test_nothing_says_which_is_which(site):
    visitor, seen = PageClient(site.url), []
    stream = visitor.http.stream

    @contextmanager
    def overheard(*args, **how):
        with stream(*args, **how) as response:
            lines = response.iter_lines
            response.iter_lines = lambda: (seen.append(line) or line for line in lines())
            yield response

    visitor.http.stream = overheard
    visitor.ask("Hi", "compare")
    said = visitor.press("choose_tie")
    key = site.store.rows()[-1]["key"]
    assert (
        said.startswith("Thank you")
        and seen
        and not [line for line in seen if key in line or '"v1"' in line or "onerror" in line]
    )


@pytest.mark.parametrize("data", [[], ["a", "b", "c", "d"], [{"a": 1}, 3], [None, ["x"] * 50], "text", None])
def test_nonsense_over_http_changes_nothing(site, data):
    visitor, before = PageClient(site.url), len(site.store.rows())
    asks_last = sorted(
        visitor.ids, key=lambda name: name in ("ask", "compare")
    )  # so that no vote has an answer
    for name in asks_last:
        for path in ("queue/join", "run/predict", "run/" + name):
            visitor.http.post(
                "/gradio_api/" + path,
                json=dict(data=data, fn_index=visitor.ids[name], session_hash=visitor.session),
            )
    assert len(site.store.rows()) == before
    assert PageClient(site.url).ask("Still there?")[0][1] == "Is it a good answer?"


def test_limits_and_the_door(site):
    visitor = PageClient(site.url)
    http = visitor.http
    assert (
        "2,001 characters" in visitor.ask("x" * 2001)[0][-1]
        and "write a question" in visitor.ask("  ")[0][-1]
    )
    visitor.ask("A note that is too long")
    assert "the page takes 500" in visitor.press("vote_up", "x" * 501)
    assert visitor.press("vote_up", "x" * 500).startswith("Thank you")  # the vote itself was not used up
    join, body = (
        "/gradio_api/queue/join",
        dict(data=["x" * 200_000], fn_index=visitor.ids["ask"], session_hash=visitor.session),
    )
    assert http.post(join, json=body).status_code == 413
    assert http.post(join, content=(b"x" * 60_000 for _ in range(2))).status_code == 413  # no length is told
    small = dict(data=["Hi"], fn_index=visitor.ids["ask"], session_hash=visitor.session)
    assert http.post(join, json=small, headers={"origin": "https://evil.example"}).status_code == 403
    assert http.post(join, json=small, headers={"origin": "null"}).status_code == 403
    assert http.get("/", headers={"host": "evil.example"}).status_code == 403  # another name for 127.0.0.1
    assert http.post("/gradio_api/run/ask", json=small).status_code == 404  # no way around the queue
    for path in ("upload", "file=/etc/passwd", "proxy=https://example.org", "run-history/buckets"):
        assert http.get("/gradio_api/" + path).status_code == 404, path
    for path in ("/monitoring", "/docs", "/openapi.json"):
        assert http.get(path).status_code == 404, path
    page = http.get("/")
    assert (
        "default-src 'self'" in page.headers["content-security-policy"]
        and "fonts.googleapis" not in page.text
    )


def test_password_disk_full_and_rate(tmp_path):
    "One server for a password, a disk that is full after some votes, and 200 calls a minute."
    # no file grows beyond this
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))"
    votes = tmp_path / "votes.db"
    with Server(
        tmp_path / "log",
        "tiny-small",
        "--store",
        votes,
        "--max-new-tokens",
        4,
        "--per-minute",
        200,
        before=full,
        FTGUIDE_PASSWORD="right horse",
    ) as server:
        stranger = httpx.Client(base_url=server.url, timeout=60)
        assert (
            stranger.get("/config").status_code == 401
            and stranger.post(
                "/gradio_api/queue/join", json=dict(data=["Hi"], fn_index=0, session_hash="x")
            ).status_code
            == 401
        )
        assert stranger.post("/login", data=dict(username="eve", password="wrong")).status_code == 400
        visitor, kept, prompt = PageClient(server.url, "ana", "right horse"), 0, "Fill the disk"
        for _ in range(60):
            visitor.ask(prompt)
            said = visitor.press("vote_up", "y" * 500)
            if not said.startswith("Thank you"):
                break
            kept += 1
        assert 0 < kept < 60 and "no room on the disk" in said and str(tmp_path) not in said
        assert (
            "no room" in visitor.press("vote_up")
            and visitor.ask("Still there?")[0][1] == "Is it a good answer?"
        )
        for _ in range(200):
            said = visitor.press("vote_up")
        assert "200 questions and votes in a minute" in said and "in a minute" in visitor.ask("Hi")[0][-1]
        tries = [
            stranger.post("/login", data=dict(username="eve", password=str(i))).status_code for i in range(12)
        ]
        assert tries[-1] == 429
        assert server.process.poll() is None
    rows = Feedback(votes).rows()
    assert len(rows) == kept and {r["rater"] for r in rows} == {"ana"}


# in a browser


def by(browser, id):
    return browser.find_element("id", id)


def field(browser, id):
    return browser.find_element("css selector", f"#{id} textarea, #{id} input")


def says(browser, panel):
    return by(browser, f"{panel}-say").text


def press(browser, id):
    wait(lambda: by(browser, id).click() or True)


def fill(browser, id, text):
    def all_of_it():
        field(browser, id).clear()
        field(browser, id).send_keys(text)
        return True

    wait(all_of_it)


def tab(browser, name):
    def click():
        for e in browser.find_elements("xpath", f"//button[@role='tab' and normalize-space()='{name}']"):
            if e.is_displayed():
                e.click()
                return True

    wait(click)


def opened(browser, site):
    browser.get(site.url)
    wait(lambda: browser.find_elements("id", "ask-go"))
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    return browser


def asked(browser, panel, prompt):
    fill(browser, f"{panel}-prompt", prompt)
    press(browser, f"{panel}-go")
    wait(lambda: by(browser, f"{panel}-{'up' if panel == 'ask' else 'a'}").is_enabled())


def test_ask_vote_and_watch_the_numbers(browser, site):
    opened(browser, site)
    before = len(site.store.rows())
    asked(browser, "ask", SCRIPT)
    assert field(browser, "ask-answer-0").get_attribute("value") == reply(load("tiny-small"), SCRIPT, 24)
    fill(browser, "ask-note", SCRIPT)
    press(browser, "ask-up")
    wait(lambda: says(browser, "ask").startswith("Thank you"))
    assert not by(browser, "ask-up").is_enabled()
    row = site.store.rows()[-1]
    assert (row["prompt"], row["note"], row["up"]) == (SCRIPT, SCRIPT, True) and len(
        site.store.rows()
    ) == before + 1
    tab(browser, "Numbers")
    votes = sum(r["kind"] == "vote" for r in site.store.rows())
    wait(lambda: f"votes {votes}" in browser.find_element("css selector", ".numbers").text)
    assert browser.title == "Ask and vote"


def test_compare_and_hostile_names(browser, site):
    opened(browser, site)
    tab(browser, "Compare")
    wait(lambda: by(browser, "compare-go").is_displayed())
    asked(browser, "compare", "Hi")
    shown = [field(browser, f"compare-answer-{i}").get_attribute("value") for i in (0, 1)]
    assert set(shown) == {reply(load(m), "Hi", 24) for m in ("tiny", "tiny-small")}
    press(browser, "compare-b")
    wait(lambda: says(browser, "compare").startswith("Thank you"))
    row = site.store.rows()[-1]
    assert [row["a"], row["b"]] == shown and row["chosen"] == "b"
    tab(browser, "Numbers")
    wait(lambda: NAME in browser.find_element("css selector", ".numbers").text)
    assert browser.title == "Ask and vote" and not browser.find_elements("css selector", ".numbers img")


def test_keyboard_only(browser, site):
    from selenium.webdriver import ActionChains, Keys

    opened(browser, site)
    before = len(site.store.rows())

    def go(id):
        for _ in range(20):
            if browser.execute_script("return !!document.activeElement.closest('#' + arguments[0])", id):
                return
            ActionChains(browser).send_keys(Keys.TAB).perform()
        raise AssertionError(f"the tab key does not reach {id}")

    def press(*keys):
        ActionChains(browser).send_keys(*keys).perform()

    go("ask-prompt")
    press("By keyboard")
    go("ask-go")
    press(Keys.ENTER)
    wait(lambda: by(browser, "ask-down").is_enabled())
    go("ask-note")
    press("no mouse")
    go("ask-down")
    press(Keys.SPACE)
    wait(lambda: says(browser, "ask").startswith("Thank you"))
    assert [(r["prompt"], r["note"], r["up"]) for r in site.store.rows()[before:]] == [
        ("By keyboard", "no mouse", False)
    ]


def test_everything_has_a_name_and_fits_a_telephone(browser, site):
    opened(browser, site)
    try:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            dict(width=390, height=800, deviceScaleFactor=1, mobile=False),
        )
        for name in ("Ask", "Compare", "Numbers"):
            tab(browser, name)
            time.sleep(0.3)
            reachable = [
                e
                for e in browser.find_elements("css selector", "input, textarea, button, a")
                if e.is_displayed() and e.get_attribute("tabindex") != "-1"
            ]
            assert len(reachable) > 3 and not [
                e.get_attribute("outerHTML")[:120] for e in reachable if not e.accessible_name
            ]
            assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), name
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert (
        by(browser, "ask-say").get_attribute("role") == "status"
        and browser.find_element("tag name", "html").get_attribute("lang") == "en"
    )


def test_no_foreign_request_and_no_error(browser, site):
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(site.url)
    wait(lambda: browser.find_elements("id", "ask-go"))
    asked(browser, "ask", "Who listens?")
    press(browser, "ask-up")
    wait(lambda: says(browser, "ask").startswith("Thank you"))
    messages = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert len(urls) > 5 and not [u for u in urls if not u.startswith((site.url, "data:", "blob:"))]
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]


def test_a_version_deployed_meanwhile_answers_the_next_question(browser, site):
    opened(browser, site)
    put(site.folder, "tiny")
    asked(browser, "ask", "Who are you?")
    assert field(browser, "ask-answer-0").get_attribute("value") == reply(load("tiny"), "Who are you?", 24)
    press(browser, "ask-up")
    wait(lambda: says(browser, "ask").startswith("Thank you"))
    assert site.store.rows()[-1]["version"] == "v2"


def test_twenty_visitors_lose_no_vote(site, record_property):
    before = len(site.store.rows())
    found = load_test(site.url, [r["prompt"] for r in load_tasks("test", 40)], 20, LOAD_S, compare=True)
    stored = site.store.rows()[before:]
    assert found.errors == [] and found.votes == len(stored) >= 20
    assert len({r["note"] for r in stored}) == len(stored)  # each visitor's each question, once
    p50, p95 = median(found.whole), quantile(found.whole, 0.95)
    record_property("p50_s", p50)
    record_property("p95_s", p95 and p95.value)
    print(f"{len(stored)} votes in {LOAD_S:.0f} s; whole answers: p50 {p50:.2f} s, p95 {p95} s")
