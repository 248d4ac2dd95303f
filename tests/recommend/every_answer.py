"""Everything that is asked of a posterior, asked: for tests of odd evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend import choice, contest, decide, plan
from headstart.recommend.condition import conditioned, view_of
from headstart.recommend.posterior import Posterior

if TYPE_CHECKING:
    from headstart.recommend.views import View

MAY_BE_NAN = {"newest", "level", "level_stderr", "noise", "binomial"}  # as documented
MAY_BE_NAN |= {"static_weight", "static_weight_stderr"}
MOST = 12  # checkpoints that are asked for
WIDEST = 200.0  # points: no gain is further from another


def assert_answers_are_sane(posterior: Posterior) -> None:
    """No NaN that is not documented, and for every view an order, intervals, chances and a plan."""
    assert_fields_are_sane(posterior)
    targets, order = len(posterior.target_ids), decide.static_order(posterior)
    views = [decide.unseen_view(posterior, np.ones(targets), probed=p) for p in (None, *range(targets)[:1])]
    known = np.flatnonzero(np.isfinite(posterior.level)).tolist()
    for t in known:
        views += [decide.known_view(posterior, t), view_of(posterior, t)]
    for view in views:
        assert_view_is_sane(posterior, view, decide.head(posterior, view, order, MOST))
    for t in known[:2]:
        new = np.setdiff1d(order, posterior.cell_checkpoint[posterior.cell_target == t])[:3]
        told = conditioned(posterior, t, new, np.linspace(-30.0, 5.0, 3)[: len(new)])
        assert_fields_are_sane(told)
        assert_view_is_sane(told, view_of(told, t), decide.head(told, view_of(told, t), order, MOST))


def assert_fields_are_sane(posterior: Posterior) -> None:
    for name in Posterior.__slots__:
        values = np.asarray(getattr(posterior, name))
        if values.dtype.kind == "f" and name not in MAY_BE_NAN:
            values = values[1:] if name == "calibration" and not posterior.calibration[1] else values
            assert np.isfinite(values).all(), name
    for name in ("covariance", "uncertainty"):
        assert (np.linalg.eigvalsh(getattr(posterior, name)) > 0).all(), name
    for name in ("doubt", "residual", "repeatable", "cell_precision", "typical_var", "typical_residual"):
        assert np.all(getattr(posterior, name) > 0), name
    assert (posterior.cell_noise >= 0).all()
    for name in ("knots", "knots_z"):
        assert (np.diff(getattr(posterior, name), axis=1) > 0).all(), name


def assert_view_is_sane(posterior: Posterior, view: View, rows: np.ndarray) -> None:
    assert abs(view.weights.sum() - 1) < 1e-9
    found = decide.predict(posterior, view, rows)
    for name in decide.Prediction.__slots__:
        assert np.isfinite(getattr(found, name)).all(), name
    level = min(max(view.level, 0.0), 100.0) if np.isfinite(view.level) else 50.0
    inside = (found.gain > -level + 1e-6) & (found.gain < 100 - level - 1e-6)  # where nothing was cut
    assert (found.low < found.high)[inside].all()
    assert (found.high - found.low <= WIDEST).all()
    assert ((found.low <= found.gain) & (found.gain <= found.high)).all()
    assert (found.p_beats < 1).all()
    assert (found.p_beats > 0).all() or level == 100, "nothing beats a vanilla that is always right"
    low, middle, high = decide.forecast(posterior, view, rows).quantile(np.array([0.1, 0.5, 0.9])).T
    assert ((low <= middle) & (middle <= high)).all()
    joint = choice.joint(view, found, float(posterior.calibration[2]))
    draws = choice.draws(view, joint)
    best = choice.p_best(draws)
    assert abs(best.rows.sum() + best.vanilla - 1) < 1e-9
    taught = plan.lessons(view, joint, found.gain, found.runs_here, np.ones(len(rows)))
    values = plan.values_among(taught)
    assert (values.value >= 0).all()
    assert all(np.isfinite(job.value_per_second) for job in plan.next_jobs(values, 3))
    outcome = contest.contest([contest.Side(contest.outlook(posterior, view, rows), np.arange(len(rows)))])
    assert outcome.pick is not None
    assert np.isfinite(outcome.pick.regret)
    assert outcome.pick.regret >= 0
