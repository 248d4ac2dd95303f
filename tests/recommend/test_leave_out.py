"""Taking a cell back out of a checkpoint's factors, against the posterior that never saw it."""

import numpy as np
import pytest

from headstart.recommend.leave_out import without

ROWS, RANK = 50, 3


@pytest.fixture
def drawn() -> dict[str, np.ndarray]:
    """A Gaussian prior of f and five cells of each row."""
    rng = np.random.default_rng(0)
    return {
        "prior": rng.normal(size=(ROWS, RANK)),
        "loadings": rng.normal(size=(ROWS, 5, RANK)),
        "precision": rng.uniform(0.01, 50, size=(ROWS, 5)),
        "z": 2 * rng.normal(size=(ROWS, 5)),
    }


def posterior_of_f(drawn: dict[str, np.ndarray], cells: slice) -> tuple[np.ndarray, np.ndarray]:
    """By the normal equations, the mean taken out of z."""
    s, p, z = (drawn[name][:, cells] for name in ("loadings", "precision", "z"))
    covariance = np.linalg.inv(np.eye(RANK) + np.einsum("nc,nci,ncj->nij", p, s, s))
    pull = drawn["prior"] + np.einsum("nc,nci->ni", p * z, s)
    return np.einsum("nij,nj->ni", covariance, pull), covariance


def test_without_a_cell_is_the_posterior_that_never_saw_it(drawn: dict[str, np.ndarray]) -> None:
    f, v = posterior_of_f(drawn, slice(5))
    s, p, z = (drawn[name][:, 4] for name in ("loadings", "precision", "z"))
    mean, covariance = without(f, v, s, p, z - np.einsum("nk,nk->n", f, s))
    expected_mean, expected_covariance = posterior_of_f(drawn, slice(4))
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-8)
    np.testing.assert_allclose(covariance, expected_covariance, rtol=1e-8, atol=1e-12)


def test_the_order_in_which_cells_are_taken_out_does_not_matter(drawn: dict[str, np.ndarray]) -> None:
    found = []
    for order in ((3, 4), (4, 3)):
        f, v = posterior_of_f(drawn, slice(5))
        for cell in order:
            s, p, z = (drawn[name][:, cell] for name in ("loadings", "precision", "z"))
            f, v = without(f, v, s, p, z - np.einsum("nk,nk->n", f, s))
        found.append((f, v))
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-7, atol=1e-10)


def test_a_cell_without_weight_or_loadings_changes_nothing(drawn: dict[str, np.ndarray]) -> None:
    f, v = posterior_of_f(drawn, slice(5))
    s, none = drawn["loadings"][:, 0], np.zeros(ROWS)
    for loadings, precision in ((s, none), (0 * s, none + 5)):
        mean, covariance = without(f, v, loadings, precision, none + 3)
        np.testing.assert_array_equal(mean, f)
        np.testing.assert_array_equal(covariance, v)


def test_what_no_posterior_could_hold_stays_finite() -> None:
    """A cell of more precision than the covariance has room for, by rounding or by a stale loading."""
    mean, covariance = without(
        np.zeros((1, RANK)), np.eye(RANK)[None], np.ones((1, RANK)), np.array([9.0]), np.ones(1)
    )
    assert np.isfinite(mean).all()
    assert np.isfinite(covariance).all()


def test_no_rows_are_no_rows() -> None:
    mean, covariance = without(
        np.zeros((0, 3)), np.zeros((0, 3, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0)
    )
    assert mean.shape == (0, 3)
    assert covariance.shape == (0, 3, 3)
