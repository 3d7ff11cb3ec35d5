"One look for all figures."

import subprocess
import sys

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ftguide.engine.figures import STAGE_COLOURS, STAGE_MARKERS, figures, label_points


def test_every_stage_has_a_colour_and_a_mark():
    assert STAGE_COLOURS.keys() == STAGE_MARKERS.keys()


def test_stages_differ_in_colour_and_mark():
    "Colour alone is not enough for everybody; a prompt is the base model, asked with other words."
    looks = [(STAGE_COLOURS[stage], STAGE_MARKERS[stage]) for stage in STAGE_COLOURS if stage != "prompt"]
    assert all(len(set(one)) == len(looks) for one in zip(*looks))


def test_figures_are_small_and_have_no_frame():
    plt = figures()
    assert plt.rcParams["figure.dpi"] == 90
    assert not plt.rcParams["axes.spines.top"] and not plt.rcParams["axes.spines.right"]


def test_labels_cover_no_other_label():
    "Five models, three of them all but in one place."
    axes = Figure(figsize=(4.2, 2.8), layout="tight").subplots()
    axes.set(xlim=(0, 0.8), ylim=(0, 0.5))
    points = {
        "base": (0.53, 0.24),
        "SFT": (0.51, 0.41),
        "DPO": (0.53, 0.38),
        "also": (0.52, 0.4),
        "distilled": (0.38, 0.33),
    }
    label_points(axes, points)
    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    boxes = [label.get_window_extent(renderer) for label in axes.texts]
    assert [label.get_text() for label in axes.texts] == list(points)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_matplotlib_waits_for_the_first_figure():
    "The tables of a report and the plan of `ftguide decide` need no figure."
    code = "import sys; import ftguide.decide, ftguide.engine.figures; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
