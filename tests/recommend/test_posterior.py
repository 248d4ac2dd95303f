"""The posterior as it is stored."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from scipy.special import stdtr, stdtrit

from headstart.recommend.fit import fit
from headstart.recommend.posterior import FORMAT, RANK, Posterior, from_bytes, to_bytes
from headstart.recommend.t_noise import T_QUANTILE_90, t_cdf
from tests.recommend.evidence_of import evidence_of, probed, world
from tests.recommend.posterior_of import posterior_of


def with_probes() -> Posterior:
    drawn = world(checkpoints=40, targets=5)
    evidence = evidence_of(drawn["gains"], probe=drawn["probe"])
    return fit(probed(evidence, np.linspace(0, 1, 41), target=2))


POSTERIORS = {
    "by hand": posterior_of,
    "fitted": with_probes,
    "never measured": lambda: fit(evidence_of(np.full((3, 2), np.nan))),
    "no targets": lambda: fit(evidence_of(np.zeros((3, 0)))),
    "no vanilla": lambda: fit(dataclasses.replace(evidence_of(np.zeros((3, 2))), vanilla=None)),
}


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_posterior_survives_the_store_to_the_bit(name: str) -> None:
    one = POSTERIORS[name]()
    read = from_bytes(to_bytes(one))
    for field in dataclasses.fields(Posterior):
        here, there = getattr(one, field.name), getattr(read, field.name)
        assert type(there) is type(here), field.name
        np.testing.assert_array_equal(there, here, err_msg=field.name)
        assert np.asarray(there).dtype == np.asarray(here).dtype, field.name
    assert to_bytes(read) == to_bytes(one) == to_bytes(POSTERIORS[name]())


def test_shapes_are_those_that_are_written_down() -> None:
    one = with_probes()
    sizes = {
        "C": len(one.checkpoint_ids),
        "M": len(one.rows),
        "T": len(one.target_ids),
        "G": one.knots.shape[1],
        "n": len(one.cell_z),
        "W": len(one.probe_methods),
        "p": len(one.pair_shift),
        "K": RANK,
        "K+1": RANK + 1,
    }
    for field in dataclasses.fields(Posterior):
        if "[np.ndarray" in str(field.type):
            written = re.split("[\"']", str(field.type))[1].split()
            expected = tuple(int(name) if name.isdigit() else sizes[name] for name in written)
            assert getattr(one, field.name).shape == expected, field.name


def test_it_is_read_without_pickles_and_named_by_its_format() -> None:
    assert FORMAT == "factors-1"
    with pytest.raises(ValueError, match="pickle"):
        from_bytes(b"not an archive")


def test_quality_is_that_of_the_factors_along_the_typical_loadings() -> None:
    one = with_probes()
    np.testing.assert_array_equal(one.direction, one.typical_theta[1:])
    np.testing.assert_allclose(one.quality, one.factors @ one.direction, atol=1e-5)


def test_the_t_distribution_in_closed_form() -> None:
    t = np.linspace(-30, 30, 301)
    np.testing.assert_allclose(t_cdf(t), stdtr(6, t), atol=1e-14)
    assert pytest.approx(stdtrit(6, 0.9)) == T_QUANTILE_90
