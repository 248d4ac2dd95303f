"""Whether Markov chains have converged, and what their mean is worth. Pure functions.

Several chains from one start are judged together: R-hat and the effective sample size are those of Vehtari,
Gelman, Simpson, Carpenter, Bürkner, "Rank-normalization, folding, and localization: an improved R-hat",
Bayesian Analysis 16 (2021), as arviz-stats computes them; each chain is split into halves, so that one that
still drifts is told from one that has arrived. Chains that start at the same point agree for as long as none
has moved: the drift of the mean over all chains, which halves of one chain do not show, is looked at too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

FEWEST_CHAINS, FEWEST_DRAWS = 4, 24  # below which nothing is told
MOST_RHAT = 1.05
FEWEST_EFFECTIVE = 100.0  # draws, of all chains together
MOST_DRIFT = 3.0  # standard errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What a quantity of the draws looks like, over all chains."""

    mean: float
    stderr: float  # Monte Carlo standard error of the mean
    rhat: float  # rank-normalised, split; 1 where the chains agree
    effective: float  # effective sample size, of all chains together
    drift: (
        float  # the last third's mean less the first third's, in standard errors of that difference; or NaN
    )
    chains: int
    draws: int  # of each chain

    @property
    def faults(self) -> tuple[str, ...]:
        """Why the mean is not to be relied on, in sentences with the numbers; none where it is."""
        found = []
        if self.chains < FEWEST_CHAINS:
            found.append(f"{self.chains} chains are too few to tell: run {FEWEST_CHAINS} or more.")
        if self.stuck:
            return (*found, "A chain stands still: it is the same in draw after draw.")
        if not math.isfinite(self.mean):
            return (*found, "Draws are NaN or infinite.")
        if self.chains > 1 and not self.rhat <= MOST_RHAT:  # one chain has none
            found.append(f"The chains disagree: R-hat is {self.rhat:.3f}, over {MOST_RHAT}.")
        if not self.effective >= FEWEST_EFFECTIVE:
            found.append(
                f"The draws are worth {self.effective:.0f} independent ones, under {FEWEST_EFFECTIVE:.0f}."
            )
        if abs(self.drift) > MOST_DRIFT:
            found.append(f"The chains still move: the drift is {self.drift:+.1f} standard errors.")
        return tuple(found)

    @property
    def stuck(self) -> bool:
        """Whether a chain stands still, for a third of its draws or longer."""
        return self.rhat == math.inf and math.isfinite(self.mean)

    @property
    def converged(self) -> bool:
        """Whether nothing speaks against the mean."""
        return not self.faults


def diagnose(draws: Float[np.ndarray, "c d"]) -> Diagnosis:
    """Judge c chains of d draws each, burn-in left out.

    A chain that stands still in its first third or its last, or draws that are not finite, have an R-hat of
    infinity and no effective draws. One chain has an R-hat of NaN.

    Raises: ValueError for fewer than 1 chain or 24 draws.
    """
    draws = np.asarray(draws, dtype=np.float64)
    if draws.ndim != 2 or not len(draws) or draws.shape[1] < FEWEST_DRAWS:
        raise ValueError(f"Draws are chains x {FEWEST_DRAWS} or more, not {draws.shape}.")
    chains, length = draws.shape
    told = {"chains": chains, "draws": length}
    finite, scale = bool(np.isfinite(draws).all()), _power_of_two(np.abs(draws).max())
    draws = draws / scale if finite else draws  # so that no square overflows
    mean = scale * float(draws.mean()) if finite else math.nan
    if not finite or any((np.ptp(part, axis=1) == 0).any() for part in _thirds(draws)):
        return Diagnosis(mean=mean, stderr=math.inf, rhat=math.inf, effective=0.0, drift=math.nan, **told)
    from arviz_stats.base.array import array_stats  # noqa: PLC0415 - a second, off the start of the service

    with np.errstate(invalid="ignore"):  # draws of two values that take turns have one of nothing
        rhat = array_stats.rhat(draws, chain_axis=0, draw_axis=1) if chains > 1 else math.nan
    return Diagnosis(
        mean=mean,
        stderr=scale * _stderr(draws),
        rhat=float(rhat),
        effective=float(array_stats.ess(draws, chain_axis=0, draw_axis=1)),
        drift=_drift(draws),
        **told,
    )


def _drift(draws: Float[np.ndarray, "c d"]) -> float:
    """Geweke (1992) over all chains: the last third's mean less the first's, in its Monte Carlo errors."""
    first, last = _thirds(draws)
    return float((last.mean() - first.mean()) / math.hypot(_stderr(first), _stderr(last)))


def _thirds(draws: Float[np.ndarray, "c d"]) -> tuple[Float[np.ndarray, "c t"], Float[np.ndarray, "c t"]]:
    """The first and the last."""
    third = draws.shape[1] // 3
    return draws[:, :third], draws[:, -third:]


def _power_of_two(largest: float) -> float:
    """At most a finite number, and more than half of it; 1 for 0. To divide by it rounds nothing."""
    return math.ldexp(0.5, math.frexp(largest)[1]) if 0 < largest < math.inf else 1.0


def _stderr(draws: Float[np.ndarray, "c d"]) -> float:
    from arviz_stats.base.array import array_stats  # noqa: PLC0415 - a second, off the start of the service

    return float(array_stats.mcse(draws, chain_axis=0, draw_axis=1))
