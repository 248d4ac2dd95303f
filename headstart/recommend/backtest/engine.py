"""What a protocol may ask of a fit. The service's own is `served`; tests bring others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from jaxtyping import Float, Int

    from headstart.recommend.backtest.material import Material
    from headstart.recommend.evidence import FamilyEvidence

View = Any  # of a target, as the fit knows it; opaque to the protocols


class Distribution(Protocol):
    """Of the gain that one new run of each of n checkpoints will show, in points."""

    def cdf(self, points: Float[np.ndarray, "n"] | float) -> Float[np.ndarray, "n"]:
        """P(gain <= points)."""

    def quantile(self, levels: Float[np.ndarray, "L"]) -> Float[np.ndarray, "n L"]:
        """The gain at each of these probabilities."""


class Fitted(Protocol):
    """A fit of one family. Targets and checkpoints are positions in the evidence it was fitted on."""

    def quality(self) -> Float[np.ndarray, "C"]:
        """The static order's key: higher is better on targets in general."""

    def unseen(self, material: Material, target: int) -> View:
        """The target as one never run, known by its description alone."""

    def known(self, target: int) -> View:
        """The target as the fit knows it."""

    def warm(self, target: int, rows: Int[np.ndarray, "k"], gains: Float[np.ndarray, "k"]) -> View:
        """The target, on which nothing was measured in the fit, given these gains in points."""

    def gain(self, view: View, rows: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Expected true gain in points."""

    def forecast(self, view: View, rows: Int[np.ndarray, "n"]) -> Distribution:
        """Of one new run of each."""

    def pick(self, view: View, rows: Int[np.ndarray, "n"], tried: Int[np.ndarray, "k"]) -> int:
        """Which of the rows to finetune next, in a `warm` view; none of those tried."""

    def draw(
        self, target: int, rows: Int[np.ndarray, "n"], rng: np.random.Generator
    ) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """True gains drawn from the fit, and what one run of each would show; points."""


class Engine(Protocol):
    """Makes a fit. It must pickle, for folds run in processes of their own."""

    def fit(self, evidence: FamilyEvidence, others: Sequence[FamilyEvidence]) -> Fitted:
        """Fit one family, beside the others of the store."""
