"""The map: regions apart, their members together, what is in none near the vanilla at the origin."""

from __future__ import annotations

import numpy as np
import pytest
from planted import planted

from headstart.regions.cosine import cosine_matrix
from headstart.regions.layout import coordinates


def test_two_regions_at_right_angles_lie_so() -> None:
    """What the plane can show exactly: members at sqrt(0.25 (m - 1) / m) of the vanilla, 90 degrees apart."""
    sketches, truth = planted([10, 10], dims=65_536)
    found = coordinates(cosine_matrix(sketches), 2)
    one, other = found[truth == 0].mean(axis=0), found[truth == 1].mean(axis=0)
    np.testing.assert_allclose(np.linalg.norm([one, other], axis=1), np.sqrt(0.25 * 0.9), atol=0.02)
    assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("regions", [3, 6, 12])
def test_regions_do_not_lie_on_each_other(regions: int) -> None:
    sketches, truth = planted([4] * regions, lone=5)
    found = coordinates(cosine_matrix(sketches), regions)
    centres = np.array([found[truth == k].mean(axis=0) for k in range(regions)])
    own = max(np.linalg.norm(found[truth == k] - centres[k], axis=1).max() for k in range(regions))
    apart = np.linalg.norm(centres[:, None] - centres, axis=2)[np.triu_indices(regions, 1)].min()
    assert apart > own
    assert np.linalg.norm(found[truth < 0], axis=1).max() < np.linalg.norm(centres, axis=1).min() / 2


def test_a_related_region_lies_nearer() -> None:
    sketches, truth = planted([8] * 3, tasks=[0, 0, 1], across=0.1)
    found = coordinates(cosine_matrix(sketches), 3)
    a, b, c = (found[truth == k].mean(axis=0) for k in range(3))
    assert np.linalg.norm(a - b) < 0.9 * min(np.linalg.norm(a - c), np.linalg.norm(b - c))


def test_signs_are_settled() -> None:
    sketches, _ = planted([5, 7, 4], lone=2)
    found = coordinates(cosine_matrix(sketches), 3)
    assert (found[np.abs(found).argmax(axis=0), [0, 1]] > 0).all()
    assert np.array_equal(found, coordinates(cosine_matrix(sketches), 3))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_and_alike(count: int) -> None:
    for cosine in (np.eye(count), np.ones((count, count)), np.zeros((count, count))):
        found = coordinates(cosine, 0)
        assert found.shape == (count, 2)
        assert np.isfinite(found).all()
        assert np.abs(found).max(initial=0.0) <= 1.0
