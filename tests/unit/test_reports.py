"Files of reports that are damaged, foreign or made to do harm: one line, and no gate lets one pass."

import copy
import json
import math
import os
import sys
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftguide.deployment import Gate
from ftguide.engine import files
from ftguide.engine.reports import ReportError
from ftguide.engine.statistics import Score
from ftguide.engine.tables import markdown
from ftguide.evaluation import Report, difference

GOOD = json.loads(
    json.dumps(
        asdict(
            Report(
                "m",
                5,
                rows={"exact match": [(1, 1), (0, 1), (True, 1)], "ROUGE-L": [(0.5, 1)] * 3},
                degeneration={"truncated_share": 0.0, "mode_share": 0.5},
                speed={"latency_answers": 12, "latency_p50_ms": 3.0, "tokens_per_second": 100.0},
                perplexity=2.5,
                answers=[dict(prompt="Hi", reference="Ho", answer="Hu")]
                + [dict(prompt=[dict(role="user", content="Hi")], reference="Ho", answer="")] * 2,
                against={"ROUGE-L": Score(1.0, 0.9, 1.1, 3)},
                nll=[(1.0, 2, 3)] * 3,
                test="abc",
                api=dict(usd_per_million_output_tokens=0.6, date="2026-09-26"),
            )
        )
    )
)
GATE = Gate(quality=0.0, tokens_per_second=1.0, usd_per_million_tokens=1.0, truncated_share=0.9, rows=1)


def places(value, way=()):
    "Ways to every part of a report."
    yield way
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*way, key))


def with_change(way, value):
    found = copy.deepcopy(GOOD)
    inner = found
    for key in way[:-1]:
        inner = inner[key]
    if not way:
        return value
    inner[way[-1]] = value
    return found


def read(tmp_path, content):
    file = tmp_path / "report.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return Report.read(file)


def test_a_good_report_is_read(tmp_path):
    report = read(tmp_path, GOOD)
    assert report.score("exact match").value == pytest.approx(2 / 3) and report.against["ROUGE-L"].n == 3
    old = {name: GOOD[name] for name in ("name", "parameters", "rows")}
    assert read(tmp_path, old).rows == GOOD["rows"]


@pytest.mark.parametrize(
    "way, value",
    [
        ((), []),
        ((), None),
        ((), {}),
        (("name",), 5),
        (("parameters",), "5"),
        (("parameters",), -1),
        (("parameters",), 1.5),
        (("rows",), []),
        (("rows", "exact match"), {}),
        (("rows", "exact match", 0), [1]),
        (("rows", "exact match", 0), [1, -1]),
        (("rows", "exact match", 0, 0), math.inf),
        (("rows", "exact match", 0, 0), math.nan),
        (("rows", "exact match", 0, 0), 10**400),
        (("rows", "exact match", 0, 0), 1e308),
        (("rows", "exact match", 0, 0), "1"),
        (("speed", "tokens_per_second"), math.inf),
        (("speed", "tokens_per_second"), [100]),
        (("degeneration", "mode_share"), None),
        (("perplexity",), -math.inf),
        (("perplexity",), "low"),
        (("answers", 0), "Hi"),
        (("answers", 0, "answer"), None),
        (("answers", 0, "prompt"), 5),
        (("against", "ROUGE-L"), 1.0),
        (("against", "ROUGE-L", "high"), math.nan),
        (("against", "ROUGE-L", "n"), 1.5),
        (("nll", 0), [1, 2]),
        (("no_ratio",), "ROUGE-L"),
        (("unknown",), 1),
    ],
)
def test_a_part_of_the_wrong_kind_is_one_line(tmp_path, way, value):
    with pytest.raises(ValueError) as e:
        read(tmp_path, with_change(way, value))
    assert "\n" not in str(e.value) and len(str(e.value)) < 700


@pytest.mark.parametrize(
    "content", ["", "{", "[" * 200_000, '{"a":' * 200_000, "NaN", '{"name": 1e999}', "9" * 10_000, "\x00"]
)
def test_what_is_no_report_is_one_line(tmp_path, content):
    with pytest.raises(ValueError) as e:
        read(tmp_path, content)
    assert "\n" not in str(e.value)


def test_what_is_no_file_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "bytes.json"):
        with pytest.raises(ValueError, match="is not"):
            Report.read(path)
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "pipe", "/dev/zero"):
            with pytest.raises(ValueError, match="is not a file"):
                Report.read(path)
    monkeypatch.setattr(files, "MOST_JSON_BYTES", 10)
    with pytest.raises(ValueError, match="larger than"):
        read(tmp_path, GOOD)


NASTY = st.sampled_from(
    [
        math.nan,
        math.inf,
        -math.inf,
        1e308,
        10**400,
        -1,
        0,
        1.5,
        "text",
        "",
        None,
        True,
        [],
        {},
        [[]],
        [1],
        {"a": 1},
    ]
) | st.recursive(st.none() | st.integers() | st.floats() | st.text(max_size=3), st.lists, max_leaves=6)


@settings(max_examples=300)
@given(st.sampled_from(list(places(GOOD))), NASTY)
def test_any_change_is_read_or_refused_and_opens_no_gate_with_what_is_no_number(tmp_path_factory, way, value):
    try:
        report = read(tmp_path_factory.mktemp("any"), with_change(way, value))
        lines = GATE.failures(report)
        assert any("usd_per_million_tokens" in line for line in lines)  # it was never measured
        assert markdown([report]) and repr(report)
        assert all(not line.count("\n") for line in lines)
        numbers = [number for pairs in report.rows.values() for pair in pairs for number in pair]
        assert all(map(math.isfinite, [*numbers, *report.speed.values(), *report.degeneration.values()]))
        difference(report, report)
    except ValueError as e:
        assert "\n" not in str(e)


@pytest.mark.parametrize("number", [math.inf, math.nan, -math.inf, 1e308])
def test_nothing_is_deployed_on_what_is_no_number(tmp_path, number):
    "Also from memory, whatever the gate asks."
    from ftguide.deployment import deploy
    from ftguide.models import load

    lm = load("tiny-small")
    for report in (
        Report(lm.name, lm.parameters, rows={"exact match": [(number, 1)] * 20}),
        Report(lm.name, lm.parameters, speed={"tokens_per_second": number}),
        Report(lm.name, lm.parameters, against={"ROUGE-L": Score(number, number, number, 20)}),
    ):
        for gate in (Gate(quality=None), Gate(quality=0.0)):
            with pytest.raises(ReportError):
                deploy(lm, tmp_path / "shop", report, gate)
    assert not (tmp_path / "shop").exists()
