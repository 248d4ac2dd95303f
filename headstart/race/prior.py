"""What is known of the gains of a race's candidates before any of them was finetuned for it.

The family's posterior is fitted without the asked target's own finetunes: they were scored on its test rows,
and nothing of those may steer a race. The target is then one never seen, drawn from the known ones that are
like it in train rows and classes (`views.unseen_view`); its gains are lines in z, as in `plan`, so that what
the candidates have in common (how strongly the target reacts) is in their covariance. Probes of the target
that read its train rows alone count as ever.

Gains are in percentage points over the vanilla, whose own gain is 0 and certain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.recommend import choice, decide, plan
from headstart.recommend.backtest.material import FINETUNES, PROBED
from headstart.recommend.fit import fit
from headstart.recommend.views import NORMAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float, Int

    from headstart.recommend.evidence import FamilyEvidence

# Of a candidate that nothing is known of. Half the distance between the 16 % and the 84 % quantile of the
# gains on a target is 0.9 to 1.5 points in the middle of the three published families, and 3 to 11 on most
# targets of fewer than 300 test rows, which is where races are run. A prior too wide costs a few evaluations
# more; one too narrow does not believe what it sees.
UNKNOWN_SPREAD = 3.0  # points
UNKNOWN_NOISE = 1.0  # points, of one run: published vanillas have 0.7 on the median target, small ones more
UNKNOWN_SHARE = 0.8  # of the binomial standard deviation: the median over published vanillas and targets
LEAST_NOISE, LEAST_SHARE = 0.1, 0.3
# Probes that read the train rows and no others; validation rows choose the head of free energy.
ON_TRAIN_ROWS = frozenset({"gbc", "hscore", "knn", "leep", "logme", "nce", "transrate"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prior:
    """Of the gains of n candidates, the vanilla among them or not, in points: jointly normal."""

    checkpoint_ids: tuple[int, ...]
    gain: Float[np.ndarray, "n"]
    covariance: Float[np.ndarray, "n n"]
    noise: float  # standard deviation of one run by its seed
    noise_share: float = UNKNOWN_SHARE  # and in those of a share right among as many test rows (binomial)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "checkpoint_ids": list(self.checkpoint_ids),
            "gain": self.gain.tolist(),
            "covariance": self.covariance.tolist(),
            "noise": self.noise,
            "noise_share": self.noise_share,
        }

    @staticmethod
    def from_dict(told: dict[str, Any]) -> Prior:
        """What `as_dict` wrote."""
        size = len(told["checkpoint_ids"])
        return Prior(
            checkpoint_ids=tuple(told["checkpoint_ids"]),
            gain=np.array(told["gain"], dtype=float),
            covariance=np.array(told["covariance"], dtype=float).reshape(size, size),
            noise=float(told["noise"]),
            noise_share=float(told["noise_share"]),
        )

    def among(self, checkpoint_ids: Sequence[int]) -> Prior:
        """Of these candidates, in this order; those that it does not know are as in `ignorant`."""
        place = {one: at for at, one in enumerate(self.checkpoint_ids)}
        known = np.array([one in place for one in checkpoint_ids], dtype=bool)
        rows = np.array([place[one] for one in checkpoint_ids if one in place], dtype=np.int64)
        found = ignorant(checkpoint_ids)
        gain, covariance = found.gain.copy(), found.covariance.copy()
        gain[known] = self.gain[rows]
        covariance[np.ix_(known, ~known)] = covariance[np.ix_(~known, known)] = 0.0
        covariance[np.ix_(known, known)] = self.covariance[np.ix_(rows, rows)]
        return replace(self, checkpoint_ids=tuple(checkpoint_ids), gain=gain, covariance=covariance)


def ignorant(checkpoint_ids: Sequence[int]) -> Prior:
    """Where there is no evidence: the vanilla is a start like any other, a gain as likely as a loss.

    Gains vary half by what is the candidate's own and half by what is the vanilla's, which all have in
    common. Were each by itself, many bad candidates would be read as the vanilla's bad luck, and one that
    is level with it would be picked.
    """
    size = len(checkpoint_ids)
    return Prior(
        checkpoint_ids=tuple(checkpoint_ids),
        gain=np.zeros(size),
        covariance=(np.eye(size) + 1) * UNKNOWN_SPREAD**2 / 2,
        noise=UNKNOWN_NOISE,
    )


def prior_of(
    evidence: FamilyEvidence,
    others: Sequence[FamilyEvidence],
    target_id: int,
    checkpoint_ids: Sequence[int],
    train_sizes: Float[np.ndarray, "T"] | None = None,
    classes: Float[np.ndarray, "T"] | None = None,
) -> Prior:
    """The prior of these candidates on a target, the vanilla's gain being 0 where it is among them.

    Args:
        evidence: of the family; `others` of the other families over the same targets, as for `fit`.
        target_id: of the asked target, which may be unknown to the evidence.
        checkpoint_ids: of the candidates; those that are not in the evidence get an `ignorant` prior.
        train_sizes: rows to train on of each target in `evidence.target_ids`, the asked one included, NaN
            where not known; None: of none. `classes` likewise.
    """
    asked = np.flatnonzero(evidence.target_ids == target_id)
    posterior = fit(without_target(evidence, target_id), [without_target(one, target_id) for one in others])
    weights = _likeness(len(evidence.target_ids), asked, train_sizes, classes)
    view = decide.unseen_view(posterior, weights, int(asked[0]) if len(asked) else None)
    known = np.isin(checkpoint_ids, posterior.checkpoint_ids)
    ids = np.array(checkpoint_ids, dtype=np.int64)[known]
    rows = np.searchsorted(posterior.checkpoint_ids, ids)
    predicted = decide.predict(posterior, view, rows)
    joint = choice.joint(view, predicted, float(posterior.calibration[2]))
    covariance = NORMAL * plan.covariance(view, joint, plan.lines(view, joint))
    gain = predicted.gain.copy()
    of_vanilla = rows == posterior.vanilla
    gain[of_vanilla] = covariance[of_vanilla, :] = covariance[:, of_vanilla] = 0.0
    found = Prior(
        checkpoint_ids=tuple(ids.tolist()),
        gain=gain,
        covariance=covariance,
        noise=max(_median(posterior.noise, weights, UNKNOWN_NOISE), LEAST_NOISE),
        noise_share=max(_median(posterior.noise / posterior.binomial, weights, UNKNOWN_SHARE), LEAST_SHARE),
    )
    return found.among(checkpoint_ids)


def _median(values: Float[np.ndarray, "T"], weights: Float[np.ndarray, "T"], unknown: float) -> float:
    """The weighted median of the known ones: noise is tenfold on targets of a few test rows."""
    at = np.flatnonzero(np.isfinite(values) & (weights > 0))
    if not len(at):
        return unknown
    at = at[np.argsort(values[at], kind="stable")]
    middle = np.searchsorted(np.cumsum(weights[at]), weights[at].sum() / 2)
    return float(values[at[min(int(middle), len(at) - 1)]])


def _likeness(
    size: int,
    asked: Int[np.ndarray, "a"],
    train_sizes: Float[np.ndarray, "T"] | None,
    classes: Float[np.ndarray, "T"] | None,
) -> Float[np.ndarray, "T"]:
    """Weight of each known target as a guide to the asked one, which is none to itself."""
    unknown = np.full(size, np.nan)
    sizes, kinds = (
        unknown if one is None else np.asarray(one, dtype=float) for one in (train_sizes, classes)
    )
    mine = [float(one[asked[0]]) if len(asked) and one[asked[0]] > 0 else None for one in (sizes, kinds)]
    weights = decide.likeness(sizes, kinds, *mine)
    weights[asked] = 0.0
    return np.asarray(weights)


def without_target(evidence: FamilyEvidence, target_id: int) -> FamilyEvidence:
    """The evidence without what read more of the target than its train rows: finetunes, probes by a head."""
    asked = evidence.target_ids == target_id
    kept = ~asked[evidence.target]
    train_only = np.array([name in ON_TRAIN_ROWS for name in evidence.probe_methods], dtype=bool)
    return replace(
        evidence,
        **_columns(evidence, FINETUNES, kept),
        **_columns(evidence, PROBED, ~asked[evidence.probed_target] | train_only[evidence.probe_method]),
    )


def _columns(evidence: FamilyEvidence, names: Sequence[str], kept: Bool[np.ndarray, "r"]) -> dict[str, Any]:
    return {name: getattr(evidence, name)[kept] for name in names}
