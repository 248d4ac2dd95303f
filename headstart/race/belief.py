"""What the runs of a race say of the gains of its candidates: one Gaussian, conditioned on all at once.

Candidate i of n + 1, the vanilla being 0, has the level L + g_i on the target, g_0 = 0; on the validation
rows at hand it has lambda_i = L + g_i + q_i; a run of it ends at f_r = lambda_i + e_r, by its seed; and what
a paused run will end at is foretold with an error of its own and one in common (`curves`):

    g ~ N(gain, C) (the prior),  L ~ N(., BROAD^2),  q_i ~ N(0, ROWS p (1 - p) / N),  e_r ~ N(0, sigma^2)

so that the vanilla's own noise is common to all gains, what is learnt of one candidate moves those it varies
with, and more seeds do not take away what N validation rows leave open. Points, all of it.

sigma is the prior's, told as a share of the binomial standard deviation of the validation rows where their
number is known; it counts like WEIGHT runs beside the seeds that were run again here.

A prior may be too sure or not sure enough, and gains have heavier tails than a Gaussian. With z_i the
standard deviations by which candidate i of m seen comes out from where prior and vanilla had it, C grows or
shrinks (SURE + sum z_i^2) / (SURE + m) times, no z_i counting for more than FURTHEST; then the prior of
each candidate for itself grows as a Student's t with FREEDOM degrees, (FREEDOM + z^2) / (FREEDOM + 1) times:
one bad start is one bad start, and no news of the vanilla.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend.t_noise import FREEDOM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int

    from headstart.race.field import Field

BROAD = 100.0  # points: nothing is known of the level
ROWS = 0.1  # share of the binomial variance of N rows that is a start's own: most rows are hard for all
WEIGHT = 4.0  # runs that the assumed seed noise counts like
SURE = 6.0  # candidates that the prior's own scale counts like
FURTHEST = 3.0  # standard deviations of one candidate that count
DRAWS = 4096
DRAWN_BY = 20221101  # seed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Belief:
    """Of n candidates beside the vanilla, R runs that tell something: moments given all that was seen."""

    gain: Float[np.ndarray, "n"]  # expected
    covariance: Float[np.ndarray, "n n"]
    with_level: Float[np.ndarray, "n+1 n"]  # Cov(lambda_i, g)
    level_var: Float[np.ndarray, "n+1"]  # Var(lambda_i)
    with_end: Float[np.ndarray, "R n"]  # Cov(f_r, g)
    end_var: Float[np.ndarray, "R"]  # Var(f_r)
    foretold_var: Float[np.ndarray, "R"]  # of the error with which f_r was foretold; 0: finished
    seed_noise: float  # sigma

    @property
    def spread(self) -> Float[np.ndarray, "n"]:
        """Standard deviations of the gains."""
        return np.asarray(np.sqrt(np.maximum(np.diag(self.covariance), 0.0)))

    def draws(self) -> Float[np.ndarray, "S n"]:
        """Joint draws of the gains; the same belief gives the same ones."""
        values, vectors = np.linalg.eigh(self.covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        normals = np.random.default_rng(DRAWN_BY).standard_normal((DRAWS // 2, len(self.gain)))
        return np.asarray(self.gain + np.concatenate([normals, -normals]) @ root.T)


def believe(field: Field) -> Belief:
    """Condition the prior on every run that tells something.

    Nothing is foretold of paused runs before one has finished: until then they tell nothing.
    """
    runs, curves = field.telling, field.curves
    ends = [curves.foretell(run) for run in runs]
    value, own, common = np.array(ends, dtype=float).reshape(-1, 3).T
    of = np.array([field.place(run.checkpoint_id) for run in runs], dtype=np.int64)
    noise = seed_noise(field, value, of)
    mean, prior, rows = _prior(field, value, own, of, noise)
    level = prior + BROAD**2 + np.diag(rows)  # Cov(lambda)
    end = level[np.ix_(of, of)] + noise**2 * np.eye(len(of))
    seen = end + np.diag(own) + np.outer(common, common)
    surprise = value - mean[of] - (float(np.mean(value - mean[of])) if len(of) else 0.0)
    before = np.concatenate([prior, level, level[of]])[:, of]  # Cov((g, lambda, f), f)
    before[len(prior) + len(level) :] += noise**2 * np.eye(len(of))
    weights = np.linalg.solve(seen, before.T).T if len(of) else before
    size = len(prior)
    g, lam, f = weights[:size], weights[size : 2 * size], weights[2 * size :]
    told = before[:size]  # Cov(g, f)
    return Belief(
        gain=(mean + g @ surprise)[1:],
        covariance=_symmetric(prior - g @ told.T)[1:, 1:],
        with_level=(prior - lam @ told.T)[:, 1:],
        level_var=np.maximum(np.diag(level) - np.einsum("ij,ij->i", lam, level[:, of]), 0.0),
        with_end=(prior[of] - f @ told.T)[:, 1:],
        end_var=np.maximum(np.diag(end) - np.einsum("ij,ij->i", f, end), 0.0),
        foretold_var=own + common**2,
        seed_noise=noise,
    )


def _prior(
    field: Field,
    value: Float[np.ndarray, "R"],
    own: Float[np.ndarray, "R"],
    of: Int[np.ndarray, "R"],
    noise: float,
) -> tuple[Float[np.ndarray, "n+1"], Float[np.ndarray, "n+1 n+1"], Float[np.ndarray, "n+1"]]:
    """Mean and covariance of the gains with the vanilla's 0, surprises allowed for; and the variance of q."""
    size = len(field.ids)
    mean, covariance = np.zeros(size), np.zeros((size, size))
    mean[1:], covariance[1:, 1:] = field.prior.gain[1:], field.prior.covariance[1:, 1:]
    rows = np.full(size, ROWS * _binomial(field, value))
    if not np.any(of == 0):
        return mean, covariance, rows
    seen = np.unique(of[of > 0])
    vanilla = value[of == 0]
    here = np.array([value[of == i].mean() - vanilla.mean() for i in seen.tolist()])
    runs = np.array([1 / np.sum(of == i) for i in seen.tolist()]) + 1 / len(vanilla)
    error = 2 * rows[seen] + noise**2 * runs + np.array([own[of == i].mean() for i in seen.tolist()])
    far = (here - mean[seen]) ** 2
    z2 = np.minimum(far / (np.diag(covariance)[seen] + error), FURTHEST**2)
    covariance *= (SURE + float(z2.sum())) / (SURE + len(seen))
    expected = np.diag(covariance)[seen] + error
    covariance[seen, seen] += expected * np.maximum((FREEDOM + far / expected) / (FREEDOM + 1) - 1, 0.0)
    return mean, covariance, rows


def seed_noise(field: Field, value: Float[np.ndarray, "R"], of: Int[np.ndarray, "R"]) -> float:
    """Standard deviation of one run by its seed, in points: see above."""
    by_rows = field.prior.noise_share**2 * _binomial(field, value)
    square, freedom = WEIGHT * (by_rows or field.prior.noise**2), WEIGHT
    for i in np.unique(of).tolist():
        seeds = np.array([run.best for run in field.told_to_the_end if field.place(run.checkpoint_id) == i])
        if len(seeds) > 1:
            square += float(np.sum((seeds - seeds.mean()) ** 2))
            freedom += len(seeds) - 1
    return float(np.sqrt(square / freedom))


def _binomial(field: Field, value: Float[np.ndarray, "R"]) -> float:
    """Variance of the share right among the validation rows, points squared; 0: nobody knows how many."""
    if not field.validation_rows or not len(value):
        return 0.0
    share = float(np.clip(np.median(value) / 100, 0.05, 0.95))
    return 1e4 * share * (1 - share) / field.validation_rows


def _symmetric(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    return np.asarray((matrix + matrix.T) / 2)


def chances(belief: Belief, worth: float, among: Sequence[int]) -> Chances:
    """What joint draws say of the candidates at these positions (1 .. n; the vanilla always takes part)."""
    return Chances.of(belief.draws(), worth, np.array(among, dtype=np.int64) - 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chances:
    """Probabilities of n candidates, those that do not take part having none."""

    best: Float[np.ndarray, "n+1"]  # of each, the vanilla first; they sum to one
    worth: Float[np.ndarray, "n"]  # that the gain exceeds the worth
    any_worth: float
    highest: float  # expected gain of whoever is best, points

    @staticmethod
    def of(drawn: Float[np.ndarray, "S n"], worth: float, rows: Int[np.ndarray, "k"]) -> Chances:
        """Counted in the draws."""
        size = drawn.shape[1]
        compared = np.column_stack([np.zeros(len(drawn)), drawn[:, rows]])
        winner = np.append(0, rows + 1)[compared.argmax(axis=1)]
        exceeds = np.zeros(size)
        exceeds[rows] = np.mean(drawn[:, rows] > worth, axis=0)
        return Chances(
            best=np.bincount(winner, minlength=size + 1) / len(drawn),
            worth=exceeds,
            any_worth=float(np.mean((drawn[:, rows] > worth).any(axis=1))),
            highest=float(compared.max(axis=1).mean()),
        )
