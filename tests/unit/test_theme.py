"Colours of the site: text that can be read in both modes (WCAG 2.2, 1.4.3: a contrast of at least 4.5)."

import re
from pathlib import Path

import pytest

THEME = Path(__file__).resolve().parents[2] / "nbs/theme"
PAIRS = [
    ("body-color", "body-bg"),
    ("link-color", "body-bg"),
    ("code-color", "body-bg"),
    ("code-color", "code-block-bg"),
    ("body-color", "code-block-bg"),
    ("body-color", "sidebar-bg"),
    ("link-color", "sidebar-bg"),
    ("body-color", "footer-bg"),
    ("navbar-fg", "navbar-bg"),
    ("navbar-hl", "navbar-bg"),
]


def colours(mode):
    text = (THEME / f"{mode}.scss").read_text(encoding="utf-8")
    return dict(re.findall(r"^\$([\w-]+):\s*(#[0-9a-f]{6})", text, re.M))


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a, b):
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_by_hand():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # just not enough


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("text, ground", PAIRS)
def test_text_can_be_read(mode, text, ground):
    known = colours(mode)
    assert contrast(known[text], known[ground]) >= 4.5
