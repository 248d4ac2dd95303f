"""From the evidence of a family to its posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from headstart.recommend.calibration import calibrate
from headstart.recommend.covariates import FREE_ENERGY, PROBE_COLUMN, covariates
from headstart.recommend.factors import CELLS_AT_ONCE, FEWEST, Fit, Problem, repeatable
from headstart.recommend.gains import compare
from headstart.recommend.leave_out import without
from headstart.recommend.posterior import Posterior
from headstart.recommend.probes import ENOUGH as FULL
from headstart.recommend.probes import energy_covariate, probe_covariate, reference
from headstart.recommend.surprises import surprises
from headstart.recommend.t_noise import RESIDUAL
from headstart.recommend.transform import KNOTS, fitted, scales
from headstart.recommend.weights import learn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int

    from headstart.recommend.evidence import FamilyEvidence
    from headstart.recommend.gains import Cells, Vanilla
    from headstart.recommend.probes import Reference
    from headstart.recommend.surprises import Surprises
    from headstart.recommend.transform import Scales, Transform
    from headstart.recommend.weights import Weights

ENOUGH = 100  # measured checkpoints from which a family needs no others to lean on
BORROWED = 0.05  # weight of a measured checkpoint of another family
ROWS_AT_ONCE = 2_048  # checkpoints whose doubt is computed in one go: 5 MB for 300 covariates


def fit(evidence: FamilyEvidence, others: Sequence[FamilyEvidence] = ()) -> Posterior:
    """Fit the family's posterior. Any evidence is enough, none included: the answer is then the prior.

    `others` is the evidence of other families over the same targets. It is looked at where fewer than ENOUGH
    checkpoints of the family are measured, and then tells what loadings, slopes and levels are typical. The
    cost is that of the measured cells and of one sparse product over all checkpoints.

    Raises:
        ValueError: a family among the others has other targets, or the same in another order.
    """
    for one in others:
        if not np.array_equal(one.target_ids, evidence.target_ids):
            raise ValueError(f"The families {evidence.family!r} and {one.family!r} have different targets.")
    own = _part(evidence)
    parts = [own]
    if len(own.rows) < ENOUGH:
        parts += [one for one in map(_part, others) if len(one.rows)]
    columns = covariates(
        [one.evidence for one in parts],
        [one.probe for one in parts],
        [one.rows for one in parts],
        own.energy,
    )
    state = Fit(_problem(parts, columns.matrices, columns.group)).run()
    prior, doubt = columns.matrices[0] @ state.slopes, _doubt(columns.matrices[0], state.slopes_cov)
    measured = state.p.covariates
    precision = state.settle(measured @ state.slopes, _doubt(measured, state.slopes_cov))
    factors = prior.copy()
    factors[own.rows] = state.factors[: len(own.rows)]
    direction = state.typical[1:] / max(float(np.linalg.norm(state.typical[1:])), 1e-9)
    left = _left_out(state, precision, direction, len(own.cells.gain))
    found = surprises(evidence, own.reference, factors @ direction)
    worth = learn(*_lessons(own.cells, left, found))
    return Posterior(
        **_checkpoint_fields(own, factors, doubt, state),
        **_measured_fields(own, prior, precision, state),
        **_target_fields(own, state),
        **_probe_fields(evidence, own.reference, found, worth, factors @ direction),
        **_static_fields(own, state),
        calibration=calibrate(left.error / np.sqrt(left.variance)),
    )


class _Part(NamedTuple):
    """One family, ready to be stacked."""

    evidence: FamilyEvidence
    vanilla: Vanilla
    cells: Cells
    rows: Int[np.ndarray, "M"]  # measured checkpoints, ascending
    reference: Reference | None
    probe: Float[np.ndarray, "C"]
    energy: Float[np.ndarray, "C"]
    scales: Scales
    transforms: tuple[Transform, ...]
    z: Float[np.ndarray, "n"]
    told: Float[np.ndarray, "n"]  # variance of the cell's noise in z, by its standard error; NaN: not told
    binomial: Float[np.ndarray, "T"]  # test noise of the vanilla's level, points; NaN: unknown
    seed_noise: Float[np.ndarray, "T"]  # variance of one run, in z


def _part(evidence: FamilyEvidence) -> _Part:
    vanilla, cells = compare(evidence)
    chosen, size = reference(evidence), len(evidence.target_ids)
    order = np.argsort(cells.target, kind="stable")
    of_target = np.split(order, np.searchsorted(cells.target[order], np.arange(1, size)))[:size]
    with np.errstate(invalid="ignore"):
        share = np.clip(vanilla.level / 100, 0.01, 0.99)
        rows = np.where(evidence.target_rows > 0, evidence.target_rows, np.nan)
        binomial = 100 * np.sqrt(share * (1 - share) / rows)
    found = scales([cells.gain[at] for at in of_target], binomial)
    transforms = []
    z, told, steepness = np.empty_like(cells.gain), cells.stderr.copy(), np.empty(size)
    for t, (at, shape) in enumerate(zip(of_target, found.shapes, strict=True)):
        one = fitted(cells.gain[at], shape)
        transforms.append(one)
        z[at] = one.z(cells.gain[at])
        known = at[np.isfinite(told[at])]
        gain, stderr = cells.gain[known], cells.stderr[known]
        told[known] = ((one.z(gain + stderr) - one.z(gain - stderr)) / 2) ** 2
        steepness[t] = one.slope(np.zeros(1))[0]
    return _Part(
        evidence=evidence,
        vanilla=vanilla,
        cells=cells,
        rows=np.unique(cells.checkpoint),
        reference=chosen,
        probe=probe_covariate(evidence, chosen),
        energy=energy_covariate(evidence),
        scales=found,
        transforms=tuple(transforms),
        z=z,
        told=told,
        binomial=binomial,
        seed_noise=(vanilla.noise / steepness) ** 2,
    )


def _problem(parts: list[_Part], matrices: tuple[Any, ...], group: Int[np.ndarray, "P"]) -> Problem:
    """The measured checkpoints of all families as one, the asked family first."""
    from scipy.sparse import vstack  # noqa: PLC0415 - off the start of the service

    starts = np.cumsum([0, *(len(one.rows) for one in parts)])
    rows = [
        start + np.searchsorted(one.rows, one.cells.checkpoint)
        for start, one in zip(starts, parts, strict=False)
    ]
    measured = [matrix[one.rows] for matrix, one in zip(matrices, parts, strict=True)]
    family = np.repeat(np.arange(len(parts)), [len(one.rows) for one in parts])
    return Problem(
        covariates=vstack(measured, format="csr"),
        group=group,
        weight=np.where(family == 0, 1.0, BORROWED),
        family=family,
        row=np.concatenate(rows),
        target=np.concatenate([one.cells.target for one in parts]),
        z=np.concatenate([one.z for one in parts]),
        effective=np.concatenate([one.cells.effective for one in parts]),
        told=np.concatenate([one.told for one in parts]),
        seed_noise=np.stack([one.seed_noise for one in parts]),
    )


def _doubt(matrix: Any, slopes_cov: Float[np.ndarray, "P P"]) -> Float[np.ndarray, "C"]:
    """1 + x'Qx of every row."""
    found = np.ones(matrix.shape[0])
    for start in range(0, len(found), ROWS_AT_ONCE):
        some = matrix[start : start + ROWS_AT_ONCE]
        row = np.repeat(np.arange(some.shape[0]), np.diff(some.indptr))
        products = some.data * (some @ slopes_cov)[row, some.indices]
        found[start : start + ROWS_AT_ONCE] += np.bincount(row, weights=products, minlength=some.shape[0])
    return found


class _LeftOut(NamedTuple):
    """Each of the family's cells foretold without itself, in z."""

    error: Float[np.ndarray, "n"]
    variance: Float[np.ndarray, "n"]  # of the error
    quality: Float[np.ndarray, "n"]  # of the checkpoint, that it was foretold from


def _left_out(
    state: Fit, precision: Float[np.ndarray, "n"], direction: Float[np.ndarray, "K"], size: int
) -> _LeftOut:
    """The cell's own part is taken out of f exactly, out of mu_t and s_t by its leverage."""
    found, noise = _LeftOut(*np.empty((3, size))), state.noise()
    for start in range(0, size, CELLS_AT_ONCE):
        cells = slice(start, min(start + CELLS_AT_ONCE, size))
        row, target, p = state.p.row[cells], state.p.target[cells], precision[cells]
        s, mean, factors = state.loadings[target], state.mean[target], state.factors[row]
        error = state.p.z[cells] - mean - np.einsum("nk,nk->n", factors, s)
        f, v = without(factors, state.covariance[row], s, p, error)
        h = np.column_stack([np.ones(len(f)), f])
        line = np.einsum("ni,nij,nj->n", h, state.uncertainty[target], h)
        both = np.einsum("nij,nij->n", v, state.uncertainty[target][:, 1:, 1:])
        told = state.p.z[cells] - mean - np.einsum("nk,nk->n", f, s)
        found.error[cells] = told / (1 - np.clip(p * line, 0.0, 0.5))
        latent = np.einsum("ni,nij,nj->n", s, v, s) + both
        found.variance[cells] = state.variance(noise, cells) + latent + line
        found.quality[cells] = f @ direction
    return found


def _lessons(cells: Cells, left: _LeftOut, found: Surprises) -> tuple[Any, ...]:
    """What the weights of probes are learnt from: the pairs that were probed and finetuned."""
    width = 1 + max(found.checkpoint.max(initial=0), cells.checkpoint.max(initial=0))
    _, pair, cell = np.intersect1d(
        found.target * width + found.checkpoint,
        cells.target * width + cells.checkpoint,
        assume_unique=True,
        return_indices=True,
    )
    surprise = found.given(pair, left.quality[cell])
    return left.error[cell], left.variance[cell], surprise, found.known[pair]


def _checkpoint_fields(
    own: _Part, factors: Float[np.ndarray, "C K"], doubt: Float[np.ndarray, "C"], state: Fit
) -> dict[str, Any]:
    evidence, size = own.evidence, len(factors)
    newest = np.full(size, -np.inf)
    np.maximum.at(newest, evidence.checkpoint, evidence.created)
    np.maximum.at(newest, evidence.probed_checkpoint, evidence.probe_created)
    return {
        "evidence_version": evidence.evidence_version,
        "vanilla": -1 if evidence.vanilla is None else evidence.vanilla,
        "checkpoint_ids": evidence.checkpoint_ids,
        "factors": factors.astype(np.float32),
        "doubt": doubt.astype(np.float32),
        "quality": (factors @ state.typical[1:]).astype(np.float32),
        "finetuned": np.bincount(own.cells.checkpoint, minlength=size),
        "probed": ~np.isnan(own.probe),
        "newest": np.where(np.isfinite(newest), newest, np.nan),
    }


def _measured_fields(
    own: _Part, prior: Float[np.ndarray, "C K"], precision: Float[np.ndarray, "n"], state: Fit
) -> dict[str, Any]:
    size, cells = len(own.rows), own.cells
    target = cells.target
    share = repeatable(state.p.seed_noise, state.residual)[0, target] * state.residual[0, target]
    return {
        "rows": own.rows,
        "covariance": state.covariance[:size],
        "prior": prior[own.rows],
        "cell_checkpoint": cells.checkpoint,
        "cell_target": target,
        "cell_gain": cells.gain,
        "cell_z": own.z,
        "cell_noise": state.variance(state.noise(), slice(len(own.z))) - share,
        "cell_precision": precision[: len(own.z)],
        "cell_runs": cells.runs,
    }


def _target_fields(own: _Part, state: Fit) -> dict[str, Any]:
    vanilla, seen = own.vanilla, state.cells[0] >= FEWEST
    share = repeatable(state.p.seed_noise, state.residual)[0]
    pick = seen if seen.any() else np.ones(len(seen), dtype=bool)
    return {
        "target_ids": own.evidence.target_ids,
        "level": vanilla.level,
        "level_runs": vanilla.runs,
        "level_stderr": vanilla.level_stderr,
        "noise": vanilla.noise,
        "binomial": own.binomial,
        "knots": np.array([one.knots for one in own.transforms]).reshape(len(seen), KNOTS),
        "knots_z": np.array([one.knots_z for one in own.transforms]).reshape(len(seen), KNOTS),
        "tail": np.array([one.tail for one in own.transforms]),
        "mean": state.mean,
        "loadings": state.loadings,
        "uncertainty": state.uncertainty,
        "residual": state.residual[0],
        "repeatable": share,
        "measured": state.cells[0],
        "typical_theta": state.typical,
        "typical_var": state.typical_var,
        "typical_residual": float(np.median(state.residual[0][pick])) if len(seen) else RESIDUAL,
        "typical_repeatable": float(np.median(share[pick])) if len(seen) else 0.5,
        "scale_line": own.scales.line,
        "centre": own.scales.centre,
    }


def _probe_fields(
    evidence: FamilyEvidence,
    chosen: Reference | None,
    found: Surprises,
    worth: Weights,
    quality: Float[np.ndarray, "C"],
) -> dict[str, Any]:
    surprise = found.given(np.arange(len(found.target)), quality[found.checkpoint])
    shift, size = worth.shift(surprise), len(evidence.target_ids)
    probed = np.bincount(found.target[found.known.any(axis=1)], minlength=size)
    ran = np.flatnonzero(found.ran.any(axis=0))
    counts, known = np.zeros((2, size, len(ran)), dtype=np.int64)
    np.add.at(counts, found.target, found.ran[:, ran])
    np.add.at(known, found.target, found.known[:, ran])
    return {
        "reference": -1 if chosen is None else chosen.target,
        "probe_methods": tuple(evidence.probe_methods[k] for k in ran),
        "probe_weight": worth.weight[ran],
        "probe_weight_stderr": np.sqrt(np.diag(worth.covariance))[ran],
        "probe_cells": worth.cells[ran],
        "probe_counts": counts,
        "probe_known": known,
        "pair_checkpoint": found.checkpoint,
        "pair_target": found.target,
        "pair_methods": found.ran.sum(axis=1),
        "pair_shift": shift,
        "pair_doubt": worth.doubt(surprise),
        "explained": np.bincount(found.target, weights=shift**2, minlength=size) / np.maximum(probed, 1),
    }


def _static_fields(own: _Part, state: Fit) -> dict[str, Any]:
    """What a standard deviation of the linear probe and of free energy adds to z on a typical target.

    A covariate of n < FULL checkpoints is n / FULL of its score, so that is what a standard deviation counts.
    Of free energies the vanilla's is none of the n.
    """
    columns = np.full(2, -1)
    if np.isfinite(own.probe).any():
        columns[0] = PROBE_COLUMN
    if state.p.group[-1] == FREE_ENERGY:
        columns[1] = len(state.p.group) - 1
    told = np.array([np.isfinite(one).sum() for one in (own.probe, own.energy)])
    if own.evidence.vanilla is not None:
        told[1] -= np.isfinite(own.energy[own.evidence.vanilla])
    share = np.where(columns < 0, np.nan, np.minimum(1.0, told / FULL))
    direction, variance = state.typical[1:], np.diag(state.slopes_cov)[columns]
    return {
        "static_weight": share * (state.slopes[columns] @ direction),
        "static_weight_stderr": share * np.sqrt(variance) * np.linalg.norm(direction),
    }


def needs_others(evidence: FamilyEvidence) -> bool:
    """Whether `fit` looks at other families: fewer than ENOUGH checkpoints of this one are measured."""
    if evidence.vanilla is None:
        return True
    own, sound = evidence.checkpoint == evidence.vanilla, np.isfinite(evidence.value)
    levelled = np.zeros(len(evidence.target_ids), dtype=bool)
    levelled[evidence.target[own & sound]] = True
    measured = sound & ~own & levelled[evidence.target]
    return len(np.unique(evidence.checkpoint[measured])) < ENOUGH
