import numpy as np
import pytest
from matplotlib.figure import Figure

from gptworks.report import style


@pytest.mark.parametrize(
    "curve", [[5.0, 4.0, 3.0] + [1e-5, 1.0, 0.9] * 100, [5.0, 4.0] + [0.5, 0.4, 0.0] * 100]
)
def test_a_loss_that_falls_to_nearly_nothing_has_an_axis(curve):
    """Predicted numbers can be all but right: their loss on a logarithmic axis has no room below zero."""
    axes = Figure().subplots()
    axes.plot(range(len(curve)), curve)
    style.plain_log(axes)
    style.without_the_start(axes)  # warnings are errors here
    bottom, top = axes.get_ylim()
    assert 0 < bottom <= min(value for value in curve if value > 0)
    assert top < 3


def test_a_caption_says_that_first_values_lie_outside():
    def fall(axes):
        axes.plot(range(101), [7e12, *np.linspace(60, 50, 100)])
        style.without_the_start(axes)

    def level(axes):
        axes.plot(range(101), np.linspace(60, 50, 101))
        style.without_the_start(axes)

    assert style.picture("a", "t", fall, x="x", caption="All.").caption == (
        "All. The first values lie outside: up to 7T."
    )
    assert style.picture("b", "t", level, x="x", caption="All.").caption == "All."


@pytest.mark.parametrize(
    ("values", "seen"), [([4.8e6, 5e6], "4.8M"), ([1e-5, 6e-5], "6e-05"), ([0.2, 0.4], "0.40")]
)
def test_no_power_of_ten_stands_over_an_axis(values, seen):
    made = style.picture("a", "t", lambda axes: axes.plot(values), x="x")
    axes = made.figure.axes[0]
    assert axes.yaxis.get_offset_text().get_text() == ""
    assert seen in [label.get_text() for label in axes.get_yticklabels()]
