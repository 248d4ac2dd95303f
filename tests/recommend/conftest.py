"""Posteriors that several modules look at."""

import numpy as np
import pytest

from headstart.recommend.fit import fit
from headstart.recommend.posterior import Posterior
from tests.recommend.evidence_of import evidence_of, world
from tests.recommend.posterior_of import posterior_of


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    return world()


@pytest.fixture(scope="module")
def fitted(drawn: dict[str, np.ndarray]) -> Posterior:
    seen = drawn["gains"].copy()
    seen[:150, 5] = np.nan
    seen[:, 6] = np.nan
    return fit(evidence_of(seen, probe=drawn["probe"], seed_noise=0.4))


@pytest.fixture(scope="module")
def small() -> Posterior:
    return posterior_of()
