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
