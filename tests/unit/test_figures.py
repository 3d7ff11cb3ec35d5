"One look for all figures."

import subprocess
import sys

from ftguide.engine.figures import STAGE_COLOURS, STAGE_MARKERS, figures


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


def test_matplotlib_waits_for_the_first_figure():
    "The tables of a report and the plan of `ftguide decide` need no figure."
    code = "import sys; import ftguide.decide, ftguide.engine.figures; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
