"""How well each static score foretells gain in the evidence at hand: what a family's page says.

A static score is known of a checkpoint before anything was finetuned from it: the linear probe, free energy
and its parts, size. Each is held against the checkpoints' mean gains, by Spearman's and Pearson's
correlation, with a 95 % percentile interval of a bootstrap over checkpoints (Efron 1979). Positive: the
better the score, the more gain. Nothing is picked or hidden by what comes out.

A *mean gain* is made comparable between checkpoints that were finetuned on different targets: gains in units
of their target's spread (z, cut at FARTHEST, so that no failed run decides), less the target's own effect,
by least squares of z_mt = a_t + q_m over the cells there are. The q_m are not shrunk: a checkpoint finetuned
once counts like one finetuned everywhere, and its noise pulls the correlations towards zero. Cells of targets
that fewer than FEWEST_HERE checkpoints were finetuned on are left out.

One reference (target and protocol) is read of each method, the one of the posterior's static prior
(`headstart.recommend.probes`): values of two protocols are never mixed.

All of it is worked out with a refit and stored as a row of its own (`headstart.refit`), not when a page asks:
it reads all evidence of the family, the provenance of its free energies included, and takes up to half a
second for 3,000 checkpoints. /recommend never sees it. Pure functions.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headstart.ranks import pearson, spearman
from headstart.recommend.evidence import FREE_ENERGY, LINEAR_PROBE
from headstart.recommend.posterior import STATIC
from headstart.recommend.probes import mean_by_checkpoint, of_reference, reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float, Int

    from headstart.recommend.evidence import FamilyEvidence
    from headstart.recommend.posterior import Posterior
    from headstart.recommend.probes import Reference

FORMAT = "predictors-1"  # of the stored row
PARTS = ("trace", "loss", "llc")  # of a free energy
SIZE = "size"
NAMES = (LINEAR_PROBE, FREE_ENERGY, *PARTS, SIZE)
LOWER_IS_BETTER = frozenset([FREE_ENERGY, *PARTS])

FEWEST = 5  # checkpoints with a score and a gain
FEWEST_HERE = 3  # checkpoints finetuned on a target that tell its effect
FARTHEST = 3.0  # z at which a gain is cut
ROUNDS = 200  # of alternating least squares; it stops when nothing moves by more than
STILL = 1e-6
DRAWS = 1_000
FEWEST_DRAWS = 200  # where there are so many checkpoints that DRAWS would take long
AT_ONCE = 100_000  # draws x checkpoints: within the processor's cache
MOST = 1_500_000  # of all draws
INTERVAL = (0.025, 0.975)
SEED = 0
DECIMALS = 4  # that are told


class Interval(NamedTuple):
    """A correlation with its 95 % interval."""

    value: float
    low: float
    high: float


class Weight(NamedTuple):
    """What a standard deviation of the score adds to z on a typical target, in the posterior's prior."""

    value: float
    stderr: float


class Where(NamedTuple):
    """The reference that a score is read from."""

    target_id: int
    target: str
    method_version: str
    params_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """How well one static score foretells gain; `reason` says why where that cannot be told."""

    name: str  # one of NAMES
    checkpoints: int  # with the score and a mean gain, the vanilla apart
    spearman: Interval | None
    pearson: Interval | None
    reference: Where | None  # None: it has none, or nobody was scored
    weight: Weight | None  # None: it is not in the prior
    reason: str | None


UNFITTED = tuple(
    Predictor(
        name=name,
        checkpoints=0,
        spearman=None,
        pearson=None,
        reference=None,
        weight=None,
        reason="The evidence of this family has not been fitted yet.",
    )
    for name in NAMES
)


def predictors(evidence: FamilyEvidence, posterior: Posterior) -> tuple[Predictor, ...]:
    """One for each of NAMES. `posterior` is that of the same evidence."""
    gain = mean_gains(posterior)
    pairs = np.round(np.column_stack([posterior.static_weight, posterior.static_weight_stderr]), DECIMALS)
    weights = {name: Weight(*pair) for name, pair in zip(STATIC, pairs.tolist(), strict=True)}
    found = []
    for name, values, chosen in _scores(evidence):
        if evidence.vanilla is not None:
            values[evidence.vanilla] = np.nan
        signed, known = (-values if name in LOWER_IS_BETTER else values), np.isfinite(values)
        both = known & np.isfinite(gain)
        reason = _why_not(int(known.sum()), signed[both], gain[both])
        told = (None, None) if reason else correlations(signed[both], gain[both])
        weight = weights.get(name)
        found.append(
            Predictor(
                name=name,
                checkpoints=int(both.sum()),
                spearman=told[0],
                pearson=told[1],
                reference=None if chosen is None else _where(evidence, chosen),
                weight=None if weight is None or np.isnan(weight.value) else weight,
                reason=reason,
            )
        )
    return tuple(found)


def mean_gains(posterior: Posterior) -> Float[np.ndarray, "C"]:
    """The mean gain of each checkpoint, as above; NaN: none. Its zero is that of the average checkpoint."""
    size, targets = len(posterior.checkpoint_ids), len(posterior.target_ids)
    seen = np.bincount(posterior.cell_target, minlength=targets)
    use = seen[posterior.cell_target] >= FEWEST_HERE
    row, column = posterior.cell_checkpoint[use], posterior.cell_target[use]
    z = np.clip(posterior.cell_z[use], -FARTHEST, FARTHEST)
    cells, here = np.bincount(row, minlength=size), np.maximum(np.bincount(column, minlength=targets), 1)
    mean = np.zeros(size)
    for _ in range(ROUNDS):
        effect = np.bincount(column, weights=z - mean[row], minlength=targets) / here
        before, mean = (
            mean,
            np.bincount(row, weights=z - effect[column], minlength=size) / np.maximum(cells, 1),
        )
        if np.abs(mean - before).max(initial=0.0) < STILL:
            break
    return np.asarray(np.where(cells > 0, mean, np.nan))


def correlations(scores: Float[np.ndarray, "n"], gains: Float[np.ndarray, "n"]) -> tuple[Interval, Interval]:
    """Spearman's and Pearson's, each with its interval; neither side is constant.

    A draw in which all scores or all gains are equal counts as 0: there the score tells nothing.
    """
    order = np.argsort(scores, kind="stable")  # so that the scores are in order, and so are their ranks
    x, y = _unit(scores[order]), _unit(gains[order])
    size, by_rank, by_value = len(x), [], []
    powers = np.column_stack([x, y, x * x, y * y, x * y])
    ranked_x, ranked_y = _Ranked.of(x), _Ranked.of(y)
    draws, step = int(np.clip(MOST // size, FEWEST_DRAWS, DRAWS)), max(1, AT_ONCE // size)
    rng = np.random.default_rng(SEED)
    for start in range(0, draws, step):
        count = min(step, draws - start)
        drawn = rng.integers(size, size=(count, size)) + size * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size).astype(float)
        by_rank.append(_of_ranks(times, ranked_x, ranked_y))
        by_value.append(_of_sums(times @ powers, size))
    return _interval(spearman(x, y), by_rank), _interval(pearson(x, y), by_value)


def to_bytes(found: tuple[Predictor, ...]) -> bytes:
    """As it is stored: JSON."""
    return json.dumps([asdict(one) for one in found], allow_nan=False).encode()


def from_bytes(payload: bytes) -> tuple[Predictor, ...]:
    """Read what `to_bytes` wrote."""
    kinds = {"spearman": Interval, "pearson": Interval, "reference": Where, "weight": Weight}
    return tuple(
        Predictor(**one | {name: one[name] and kind(*one[name]) for name, kind in kinds.items()})
        for one in json.loads(payload)
    )


def _scores(
    evidence: FamilyEvidence,
) -> Iterator[tuple[str, Float[np.ndarray, "C"], Reference | None]]:
    """Each static score of every checkpoint, NaN: none; and what it is read from."""
    size = len(evidence.checkpoint_ids)
    for method in (LINEAR_PROBE, FREE_ENERGY):
        chosen, values = reference(evidence, method), np.full(size, np.nan)
        if chosen is not None:
            own = of_reference(evidence, chosen, method)
            values = mean_by_checkpoint(evidence.probed_checkpoint[own], evidence.probe_value[own], size)
        yield method, values, chosen
    for part in PARTS:
        yield part, _part(evidence, chosen, part), chosen
    yield SIZE, evidence.parameters.copy(), None


def _part(evidence: FamilyEvidence, chosen: Reference | None, part: str) -> Float[np.ndarray, "C"]:
    size, parts = len(evidence.checkpoint_ids), evidence.energy_parts
    if chosen is None or parts is None:
        return np.full(size, np.nan)
    values: Float[np.ndarray, "E"] = getattr(parts, part)
    own = (parts.target == chosen.target) & (parts.protocol == chosen.protocol) & np.isfinite(values)
    return mean_by_checkpoint(parts.checkpoint[own], values[own], size)


def _where(evidence: FamilyEvidence, chosen: Reference) -> Where:
    target_id, name = int(evidence.target_ids[chosen.target]), evidence.target_names[chosen.target]
    return Where(target_id, name, *evidence.protocol_named(chosen.protocol))


def _why_not(known: int, scores: Float[np.ndarray, "n"], gains: Float[np.ndarray, "n"]) -> str | None:
    """Why a correlation cannot be told, in a sentence; None: it can."""
    if not known:
        return "No checkpoint has this score."
    if len(scores) < FEWEST:
        have = {0: "No checkpoint has", 1: "1 checkpoint has"}.get(
            len(scores), f"{len(scores)} checkpoints have"
        )
        return f"{have} both this score and a gain; {FEWEST} are needed."
    if np.ptp(scores) == 0:
        return f"The score of all {len(scores)} checkpoints that have a gain is the same."
    if np.ptp(gains) == 0:
        return f"The mean gain of all {len(scores)} checkpoints that have this score is the same."
    return None


def _unit(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Centred, the largest of size 1: squares of what is huge or tiny would be lost."""
    middle = values - np.median(values)
    return np.asarray(middle / np.abs(middle).max())


class _Ranked(NamedTuple):
    """Where values stand in their order: from it follow their ranks in any draw, ties at their mean rank."""

    order: Int[np.ndarray, "n"] | None  # None: they are in order
    start: Int[np.ndarray, "g"]  # in that order, of each group of equal values
    group: Int[np.ndarray, "n"] | None  # of each value; None: its own place

    @classmethod
    def of(cls, values: Float[np.ndarray, "n"]) -> _Ranked:
        _, group, count = np.unique(values, return_inverse=True, return_counts=True)
        order = np.argsort(values, kind="stable")
        plain = np.arange(len(values))
        in_order, apart = np.array_equal(order, plain), np.array_equal(group, plain)
        return cls(None if in_order else order, np.cumsum(count) - count, None if apart else group)

    def ranks(
        self, times: Float[np.ndarray, "b n"]
    ) -> tuple[Float[np.ndarray, "b n"], Float[np.ndarray, "b"]]:
        """Ranks in draws that hold each value so many times, less their mean; the sum of their squares."""
        size = times.shape[1]
        equal = times if self.order is None else times[:, self.order]
        if len(self.start) < size:
            equal = np.add.reduceat(equal, self.start, axis=1)
        ranks = np.cumsum(equal, axis=1)
        ranks -= (equal + size) / 2
        squares = np.einsum("bg,bg,bg->b", equal, ranks, ranks)
        return (ranks if self.group is None else ranks[:, self.group]), squares


def _of_ranks(times: Float[np.ndarray, "b n"], x: _Ranked, y: _Ranked) -> Float[np.ndarray, "b"]:
    """Spearman's correlation in each of b draws."""
    (ranks_x, squares_x), (ranks_y, squares_y) = x.ranks(times), y.ranks(times)
    both = np.einsum("bn,bn,bn->b", times, ranks_x, ranks_y)
    return _ratio(both, squares_x, squares_y, 0.25)


def _of_sums(sums: Float[np.ndarray, "b 5"], size: int) -> Float[np.ndarray, "b"]:
    """Pearson's correlation in each of b draws, from their sums of x, y, xx, yy and xy, all within -1..1."""
    x, y, xx, yy, xy = sums.T
    return _ratio(xy - x * y / size, xx - x * x / size, yy - y * y / size, 1e-12 * size)


def _ratio(
    both: Float[np.ndarray, "b"], one: Float[np.ndarray, "b"], other: Float[np.ndarray, "b"], least: float
) -> Float[np.ndarray, "b"]:
    """both / sqrt(one other), within -1..1; 0 where one of them is below what is more than rounding."""
    sound = np.minimum(one, other) > least
    scale = np.sqrt(np.where(sound, one * other, 1.0))
    return np.asarray(np.clip(np.where(sound, both, 0.0) / scale, -1.0, 1.0))


def _interval(value: float, draws: list[Float[np.ndarray, "b"]]) -> Interval:
    low, high = np.quantile(np.concatenate(draws), INTERVAL)
    return Interval(*(round(float(one), DECIMALS) for one in (value, low, high)))
