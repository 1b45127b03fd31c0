import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from gptworks.model import scaling


@pytest.mark.parametrize("flops", [1e15, 3.16e19, 5.76e23])
def test_the_optimum_is_where_the_fit_is_lowest_at_equal_compute(flops):
    best = minimize_scalar(
        lambda log_n: scaling.loss(np.exp(log_n), flops / 6 / np.exp(log_n)), bounds=(5, 40), method="bounded"
    )
    parameters, tokens = scaling.compute_optimal(flops)
    assert parameters == pytest.approx(np.exp(best.x), rel=1e-2)
    assert 6 * parameters * tokens == pytest.approx(flops)


def test_the_fit_is_that_of_the_paper():
    # Hoffmann et al. 2022, section 3.3 and figure 4: for Gopher's compute about 40 B parameters; Chinchilla's own loss
    parameters, _ = scaling.compute_optimal(5.76e23)
    assert 3e10 < parameters < 5e10
    assert float(scaling.loss(np.array(70e9), np.array(1.4e12))) == pytest.approx(1.937, abs=0.01)
