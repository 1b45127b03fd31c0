import numpy as np
import pytest
from matplotlib.figure import Figure

from gptworks.reports import style


@pytest.mark.parametrize(
    "curve", [[5.0, 4.0, 3.0] + [1e-5, 1.0, 0.9] * 100, [5.0, 4.0] + [0.5, 0.4, 0.0] * 100]
)
def test_a_loss_that_falls_to_nearly_nothing_has_an_axis(curve):
    """The loss of a regression can reach zero, which a logarithmic axis cannot show."""
    axes = Figure().subplots()
    axes.plot(range(len(curve)), curve)
    style.plain_log(axes)
    style.crop_start(axes)  # warnings are errors here
    bottom, top = axes.get_ylim()
    assert 0 < bottom <= min(value for value in curve if value > 0)
    assert top < 3


def test_a_caption_says_that_the_first_values_are_cropped():
    def fall(axes):
        axes.plot(range(101), [7e12, *np.linspace(60, 50, 100)])
        return style.crop_start(axes)

    def level(axes):
        axes.plot(range(101), np.linspace(60, 50, 101))
        return style.crop_start(axes)

    cropped = style.draw("a", "t", fall, x="x", caption="All.").caption
    assert cropped.startswith("All. ")
    assert "7T" in cropped
    assert style.draw("b", "t", level, x="x", caption="All.").caption == "All."


@pytest.mark.parametrize(
    ("values", "seen"), [([4.8e6, 5e6], "4.8M"), ([1e-5, 6e-5], "6e-05"), ([0.2, 0.4], "0.40")]
)
def test_no_power_of_ten_stands_over_an_axis(values, seen):
    def plot(axes):
        axes.plot(values)

    made = style.draw("a", "t", plot, x="x")
    axes = made.figure.axes[0]
    assert axes.yaxis.get_offset_text().get_text() == ""
    assert seen in [label.get_text() for label in axes.get_yticklabels()]
