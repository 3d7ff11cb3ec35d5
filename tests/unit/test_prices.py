"Prices with a date and a source, and what is said of names and numbers that are wrong."

import tomllib
from datetime import date
from pathlib import Path

import pytest

from ftguide.engine.prices import api_usd, prices

ROOT = Path(__file__).resolve().parents[2]


def test_every_price_has_a_date_and_a_source():
    for line in [*prices()["gpus"].values(), *prices()["apis"].values()]:
        assert date(2023, 1, 1) < date.fromisoformat(line["date"]) and len(line["source"]) > 10
        assert all(v > 0 for v in line.values() if not isinstance(v, str))


def test_peaks_agree_with_trl():
    utils = pytest.importorskip("trl.trainer.utils")
    table = dict(getattr(utils, "_PEAK_FLOPS_BY_DEVICE", ()))
    for name, line in prices()["gpus"].items():
        if name in table:
            assert line["peak_tflops"] * 1e12 == table[name]["bfloat16"]


def test_prices_of_ones_own(tmp_path):
    (tmp_path / "p.json").write_text('{"gpus": {}, "apis": {}}')
    assert prices(tmp_path / "p.json") == {"gpus": {}, "apis": {}}
    with pytest.raises(ValueError, match="no API 'x' in prices.json"):
        api_usd("x", 1)
    with pytest.raises(ValueError, match="tokens_out"):
        api_usd("gpt-4o-mini", 1, -1)


def test_prices_are_packaged():
    assert (
        "prices.json"
        in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
            "ftguide"
        ]
    )
    assert "include ftguide/prices.json" in (ROOT / "MANIFEST.in").read_text()
