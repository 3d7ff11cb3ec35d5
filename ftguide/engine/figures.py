"""One look for all figures, and the same colour and mark for the same model everywhere.

Imports nothing of the package; matplotlib is loaded when the first figure is drawn."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

STAGE_COLOURS = {
    "base": "#888888",
    "prompt": "#888888",
    "SFT": "#2f6f8f",
    "DPO": "#d9a441",
    "distilled": "#6a994e",
    "teacher": "#bc4749",
}
STAGE_MARKERS = {"base": "s", "prompt": "s", "SFT": "o", "DPO": "D", "distilled": "^", "teacher": "*"}


def figures() -> ModuleType:  # matplotlib.pyplot
    "Set the look (small files, no frame) and return pyplot."
    import matplotlib.pyplot as plt

    if "ipykernel" in sys.modules or "execnb" in sys.modules:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("png")
    plt.rcParams.update(
        {
            "figure.dpi": 90,
            "savefig.bbox": "tight",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "font.size": 9,
        }
    )
    return plt
