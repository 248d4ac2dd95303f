"""Transforms side by side say what each says by itself."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.recommend import decide
from headstart.recommend.transform import Transforms, plain
from tests.recommend.posterior_of import posterior_of


def several() -> tuple[Transforms, Transforms]:
    fitted = decide.unseen_view(posterior_of(), np.ones(5)).transforms
    return fitted, Transforms([*fitted, plain(-40.0, 0.2), plain(30.0, 9.0)])


@pytest.mark.parametrize("gain", [-80.0, -3.0, -0.5, 0.0, 0.5, 2.0, 40.0])
def test_gains_in_z_are_those_of_each(gain: float) -> None:
    for transforms in (*several(), Transforms([plain(1.0, 2.0)])):
        gains = np.array([gain, 1.0, float(transforms[0].knots[7])])
        told = np.array([one.z(gains) for one in transforms]).T
        np.testing.assert_allclose(transforms.z(gains), told, rtol=0, atol=1e-11)
        np.testing.assert_allclose(transforms.z(gains[1:]), told[1:], rtol=0, atol=1e-11)
        found = [transforms.z_of_one(one) for one in gains.tolist()]
        np.testing.assert_allclose(found, told[:, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("spread", [0.1, 1.0, 8.0, 60.0])
def test_z_in_points_is_that_of_each(spread: float) -> None:
    for transforms in (*several(), Transforms([plain(1.0, 2.0)])):
        z = np.random.default_rng(0).normal(0.0, spread, (7, 3, len(transforms)))
        told = np.stack([one.gain(z[:, :, k]) for k, one in enumerate(transforms)], axis=2)
        np.testing.assert_allclose(transforms.gain(z), told, rtol=1e-10, atol=1e-10)


def test_a_probability_of_one_checkpoint_is_that_of_many() -> None:
    posterior = posterior_of()
    view = decide.unseen_view(posterior, np.arange(1.0, 6.0))
    found = decide.predict(posterior, view, np.arange(1, 6))
    for worth in (-2.0, 0.0, 1.5):
        all_at_once = decide.exceeds(view, found.mean, found.spread, np.array([worth]))
        for k, (mean, spread) in enumerate(zip(found.mean, found.spread, strict=True)):
            assert decide.p_exceeds(view, mean, spread, worth) == pytest.approx(all_at_once[k], abs=1e-12)
