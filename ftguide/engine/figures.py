"""One look for all figures, and the same colour and mark for the same model everywhere.

Imports nothing of the package; matplotlib is loaded when the first figure is drawn."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.axes import Axes

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
    "Set the look (twice as many pixels as the page shows, no frame) and return pyplot."
    import matplotlib.pyplot as plt

    if "ipykernel" in sys.modules or "execnb" in sys.modules:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina")
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


def label_points(
    axes: Axes,  # with its limits set
    points: dict[str, tuple[float, float]],  # label -> the point it belongs to
) -> None:
    "A label beside each point: right, left, above or below, where it covers no point and no other label."
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    axes.figure.draw(renderer)  # text is measured where it will stand
    taken = [_square(axes.transData.transform(point), 6) for point in points.values()]
    for name, point in points.items():
        for place in (
            dict(xytext=(8, 3)),
            dict(xytext=(8, -11)),
            dict(xytext=(-8, 3), ha="right"),
            dict(xytext=(-8, -11), ha="right"),
            dict(xytext=(8, 14)),
            dict(xytext=(8, -22)),
        ):
            label = axes.annotate(name, point, textcoords="offset points", **place)
            box = label.get_window_extent(renderer)
            if not any(box.overlaps(other) for other in taken):
                break
            label.remove()
        else:
            label = axes.annotate(name, point, textcoords="offset points", xytext=(8, 3))
            box = label.get_window_extent(renderer)
        taken.append(box)


def _square(centre, half: float):  # pixels
    from matplotlib.transforms import Bbox

    (x, y) = centre
    return Bbox([[x - half, y - half], [x + half, y + half]])
