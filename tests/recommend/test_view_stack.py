"""The transforms of a view side by side say what each says by itself."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.recommend import decide
from headstart.recommend.views import stack
from tests.recommend.posterior_of import posterior_of


@pytest.mark.parametrize("gain", [-80.0, -3.0, -0.5, 0.0, 0.5, 2.0, 40.0])
def test_a_stack_is_its_transforms(gain: float) -> None:
    posterior = posterior_of()
    for view in (decide.unseen_view(posterior, np.ones(5)), decide.known_view(posterior, 1)):
        found = stack(view)
        np.testing.assert_allclose(found.z(gain), view.z(np.array([gain]))[0], atol=1e-12)
        knot = float(view.transforms[0].knots[7])
        np.testing.assert_allclose(found.z(knot), view.z(np.array([knot]))[0], atol=1e-12)


def test_a_probability_by_the_stack_is_that_of_the_view() -> None:
    posterior = posterior_of()
    view = decide.unseen_view(posterior, np.arange(1.0, 6.0))
    found = decide.predict(posterior, view, np.arange(1, 6))
    for worth in (-2.0, 0.0, 1.5):
        for mean, spread in zip(found.mean, found.spread, strict=True):
            assert decide.p_exceeds_of_many(view, stack(view), mean, spread, worth) == pytest.approx(
                decide.p_exceeds(view, mean, spread, worth), abs=1e-12
            )
