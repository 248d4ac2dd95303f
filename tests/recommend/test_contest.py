"""Who is best of those that take part: known answers in one family, and in several."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from headstart.recommend import choice, decide, plan
from headstart.recommend.contest import (
    JOBS,
    Gains,
    Outlook,
    Side,
    contest,
    gains_of,
    jobs,
    linked,
    outlook,
    probed_by,
)
from headstart.recommend.plan import Lessons
from tests.recommend.posterior_of import NEVER_RUN, posterior_of
from tests.recommend.views_of import joint_of, view_of

ROWS = np.arange(1, 12)


def lessons_of(gain: np.ndarray, *, spread: float = 1.0, methods: tuple[str, ...] = ("finetune",)) -> Lessons:
    """Of checkpoints that nobody measured here and that are each on their own."""
    n, jobs = len(gain), (len(gain), len(methods))
    return Lessons(
        methods=methods,
        gain=gain,
        finetuned=np.zeros(n, dtype=bool),
        shift=spread * np.eye(n),
        alone=np.full((n, len(methods) - 1), 0.5),
        seconds=np.full(jobs, 10.0),
        lacking=np.ones(jobs, dtype=np.int64),
    )


def side_of(
    gain: list[float],
    *,
    spread: float = 1.0,
    seed: int = 0,
    methods: tuple[str, ...] = ("finetune",),
    **standing: float,
) -> Side:
    """Independent normal gains; every row of draws holds each quantile once."""
    means, rng = np.array(gain, dtype=float), np.random.default_rng(seed)
    draws = means[:, None] + spread * rng.permuted(np.tile(quantiles(), (len(gain), 1)), axis=1)
    made = Outlook(
        np.arange(len(gain)),
        means,
        np.zeros(len(gain), dtype=np.int64),
        draws.astype(np.float32),
        np.zeros(choice.DRAWS, dtype=np.float32),
        (choice.DRAWS,),
        lessons_of(means, spread=spread, methods=methods),
    )
    return Side(made, np.arange(len(gain)), **standing)


def quantiles() -> np.ndarray:
    return np.asarray(norm.ppf((np.arange(choice.DRAWS) + 0.5) / choice.DRAWS))


def test_one_family_is_compared_by_its_gains() -> None:
    posterior = posterior_of()
    view = decide.known_view(posterior, 1)
    made = outlook(posterior, view, ROWS)
    found = decide.predict(posterior, view, ROWS)
    drawn = choice.draws(view, choice.joint(view, found, 1.0))
    at = np.array([0, 3, 4, 9])
    for side, rows in ((Side(made, np.arange(11)), None), (Side(made, at), at)):
        best = choice.p_best(drawn, rows)
        result = contest([side])
        np.testing.assert_allclose(result.p_best[0], best.rows)
        assert result.vanilla == pytest.approx(best.vanilla)
        assert result.p_best[0].sum() + result.vanilla == pytest.approx(1)
        assert result.regret == pytest.approx(choice.regret(drawn, int(side.at[0]), rows))
        taken = np.arange(11) if rows is None else rows
        stop = int(taken[found.gain[taken].argmax()])
        assert result.pick is not None
        assert (result.pick.position, result.pick.gain) == (stop, pytest.approx(found.gain[stop], rel=1e-14))
        assert result.pick.regret == pytest.approx(choice.regret(drawn, stop, rows))


def test_gains_are_those_of_a_prediction() -> None:
    posterior = posterior_of(calibration=np.array([0.5, 40.0, 1.4]))
    for view in (decide.known_view(posterior, 0), decide.unseen_view(posterior, np.ones(5))):
        found = decide.predict(posterior, view, ROWS)
        for name, values in gains_of(posterior, view, ROWS)._asdict().items():
            np.testing.assert_allclose(values, getattr(found, name), err_msg=name)
        known = Gains(found.gain, found.runs_here, found.mean, found.spread, found.shared, found.factors)
        one, two = (outlook(posterior, view, ROWS, known=given) for given in (None, known))
        np.testing.assert_allclose(one.draws, two.draws, atol=1e-4)
        assert one.draws.dtype == one.lessons.shift.dtype == np.float32


def test_the_better_level_wins_and_the_same_level_is_a_draw() -> None:
    far = contest([side_of([1.0, 0.0], level=50.0), side_of([1.0, 0.0], level=80.0)])
    assert far.p_best[0].sum() == 0
    assert far.pick is not None
    assert (far.pick.side, far.pick.position) == (1, 0)
    alone = contest([side_of([1.0, 0.0], level=80.0)])
    assert far.vanilla == pytest.approx(alone.vanilla, abs=0.03)
    assert far.regret == pytest.approx(alone.regret, abs=0.03)
    even = contest([side_of([1.0, 0.0], level=80.0), side_of([1.0, 0.0], level=80.0)])
    assert even.p_best[0].sum() == pytest.approx(even.p_best[1].sum(), abs=0.05)
    assert even.p_best[0].sum() + even.p_best[1].sum() + even.vanilla == pytest.approx(1)
    assert even.regret is not None
    assert alone.regret is not None
    assert even.regret > alone.regret + 0.1, "the same draws of two families do not move together"


def test_two_of_two_families_in_closed_form() -> None:
    # a difference of 1 with a standard deviation of hypot(0.5, 0.5, 0.8, 0.6); vanillas are far below
    one = side_of([10.0], spread=0.5, level=60.0, common=5.0, own=0.8)
    two = side_of([10.0], spread=0.5, level=61.0, common=5.0, own=0.6, seed=1)
    found = contest([one, two])
    sd = float(np.sqrt(0.5**2 + 0.5**2 + 0.8**2 + 0.6**2))
    assert found.p_best[1][0] == pytest.approx(norm.cdf(1 / sd), abs=0.03)
    assert found.regret == pytest.approx(sd * norm.pdf(1 / sd) - norm.sf(1 / sd), abs=0.03)
    assert found.vanilla == 0


def test_families_are_like_the_same_known_target_in_a_draw() -> None:
    """On one of two targets everybody gains 9 points, on the other none: the better level always wins."""
    sides = []
    for level in (70.0, 73.0):
        side = side_of([0.0], spread=0.5, level=level)
        gains = side.outlook.draws.copy()
        gains[:, choice.DRAWS // 2 :] += 9
        sides.append(side._replace(outlook=side.outlook._replace(draws=gains, ends=(256, 512))))
    alike = contest(sides)
    assert alike.p_best[0][0] < 0.01
    apart = [sides[0], sides[1]._replace(outlook=sides[1].outlook._replace(ends=(128, 256, 512)))]
    assert contest(apart).p_best[0][0] == pytest.approx(0.25, abs=0.05), "like targets of another kind"


def test_what_all_families_share_tells_none_apart() -> None:
    sides = [side_of([1.0, 0.5], level=40.0, seed=1), side_of([0.8], level=40.5, seed=2)]
    common = [side._replace(common=8.0) for side in sides]
    for one, other in zip(contest(sides).p_best, contest(common).p_best, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def without_candidates(side: Side) -> Side:
    return side._replace(at=np.zeros(0, dtype=np.int64))


def test_a_vanilla_without_candidates_takes_part() -> None:
    known, bare = side_of([1.0, 0.0], level=70.0), without_candidates(side_of([1.0], level=72.0))
    found = contest([known, bare])
    assert found.p_best[1].tolist() == [0]
    ahead = known.outlook.draws > 2.0  # the level of the other over that of its own
    assert found.vanilla == pytest.approx((~ahead.any(axis=0)).mean(), abs=0.01)
    assert found.p_best[0].sum() + found.vanilla == pytest.approx(1)
    assert found.pick is not None
    assert (found.pick.side, found.pick.position, found.pick.gain) == (1, None, 0)
    assert found.pick.regret == pytest.approx(
        np.maximum(known.outlook.draws.max(axis=0) - 2, 0).mean(), abs=0.02
    )
    assert found.regret is not None
    assert found.regret > 1, "the first candidate is expected a point below it"
    never = side_of([], level=72.0)
    assert contest([known, never]).vanilla == found.vanilla
    assert contest([never, known]).pick == found.pick._replace(side=0)
    high = jobs([known, bare._replace(level=80.0)]).values
    assert (high.value < 1e-6).all(), "no finetune makes up for ten points"
    assert (jobs([known, bare._replace(level=60.0)]).values.value == jobs([known]).values.value).all()


def test_a_vanilla_that_may_not_be_started_from_takes_no_part() -> None:
    out = without_candidates(side_of([1.0], level=90.0))._replace(vanilla=False)
    weak = side_of([1.0, 0.0], level=50.0)
    found = contest([out, weak])
    assert found.p_best[0].tolist() == [0]
    np.testing.assert_array_equal(found.p_best[1], contest([weak]).p_best[0])
    assert found.pick is not None
    assert found.pick.side == 1
    np.testing.assert_array_equal(jobs([out, weak]).values.value, jobs([weak]).values.value)
    nobody = contest([out])
    assert (nobody.vanilla, nobody.regret, nobody.pick) == (1, None, None)
    assert contest([]).pick is None


def test_vanillas_alone() -> None:
    alone = contest([without_candidates(side_of([1.0], level=70.0))])
    assert (alone.vanilla, alone.regret, alone.pick) == (1, None, (0, None, 0.0, 0.0))
    sides = [without_candidates(side_of([1.0], level=level, own=1.0)) for level in (70.0, 71.0)]
    both = contest(sides)
    assert (both.vanilla, both.regret) == (1, None)
    assert both.pick is not None
    assert (both.pick.side, both.pick.position) == (1, None)
    sd = np.sqrt(2)
    assert both.pick.regret == pytest.approx(sd * norm.pdf(1 / sd) - norm.sf(1 / sd), abs=0.03)
    assert jobs(sides).values.value.shape == (0, 1)


def test_the_error_of_a_measured_level_is_the_vanillas() -> None:
    """A level that is lower than measured makes the gains over it so much higher: candidates' scores stand.

    Both levels are measured with a standard error of 2. One family has a candidate that nothing else is open
    of, a point over the level of 70; the other's vanilla was measured at 71.5.
    """
    measured = view_of(slope=4.0, target=0, level=70.0, level_stderr=2.0, level_var=np.array([0.25]))
    known = joint_of([0.25], [0.501], level=0.5)
    made = side_of([1.0], level=70.0).outlook._replace(
        draws=choice.draws(measured, known), level_error=choice.level_error(measured, known)
    )
    one = Side(made, np.arange(1), level=70.0)
    scores = 70.0 + made.draws[0] - made.level_error
    assert np.std(scores) < 0.6, "what is left is Student's tails of the gain"
    assert np.std(made.level_error) == pytest.approx(2.0, abs=0.01)
    bare = without_candidates(side_of([1.0], level=71.5))
    other = bare._replace(outlook=bare.outlook._replace(level_error=made.level_error))
    found = contest([one, other])
    other_wins, own_wins = norm.sf(-0.5 / 2), norm.sf(1 / 2)
    neither = (1 - other_wins) * (1 - own_wins)
    assert found.p_best[0][0] == pytest.approx(neither, abs=0.04)
    assert contest([one]).p_best[0][0] == pytest.approx(norm.cdf(1 / 2), abs=0.02), (
        "within a family it counts"
    )
    np.testing.assert_array_equal(choice.level_error(view_of(level_stderr=2.0), known), 0)
    twice = choice.level_error(measured, known, 1.5)
    np.testing.assert_allclose(twice, 1.5 * made.level_error, rtol=1e-6)


def test_probes_are_counted_by_the_posterior() -> None:
    posterior = posterior_of()
    probe = plan.Probe("logme", 0.3, np.zeros(11, dtype=bool), np.full(11, 3.0))
    for view, probed in (
        (decide.known_view(posterior, 0), 3),
        (decide.known_view(posterior, 2), 0),
        (decide.unseen_view(posterior, np.ones(5), NEVER_RUN), 2),
        (decide.unseen_view(posterior, np.ones(5)), 0),
    ):
        made = outlook(posterior, view, ROWS, [probe])
        assert made.lessons.lacking[:, 1].tolist() == [max(3 - probed, 1)] * 11
        assert probed_by(posterior, view, "knn") == 0
        (found,) = {probed_by(posterior, view, "logme")}
        assert found == probed


def test_a_widened_fit_widens_the_noise_of_its_lessons() -> None:
    posterior, view = (
        posterior_of(calibration=np.array([0.5, 40.0, 1.4])),
        decide.known_view(posterior_of(), 0),
    )
    made, found = outlook(posterior, view, ROWS), gains_of(posterior, view, ROWS)
    together = choice.joint(view, found, 1.4)
    told = plan.lessons(view, together, found.gain, found.runs_here, np.ones(11), widening=1.4)
    np.testing.assert_allclose(made.lessons.shift, told.shift, rtol=1e-5)
    trusting = plan.lessons(view, together, found.gain, found.runs_here, np.ones(11))
    assert (np.diag(made.lessons.shift) < np.diag(trusting.shift)).all()


def test_without_a_gain_the_best_vanilla_is_taken() -> None:
    losing = side_of([-1.0, -2.0], level=70.0)
    alone = contest([losing])
    assert alone.pick is not None
    assert (alone.pick.position, alone.pick.gain) == (None, 0)
    assert alone.pick.regret == pytest.approx(choice.regret(losing.outlook.draws, None))
    assert alone.pick.regret < (alone.regret or 0)
    both = contest([losing, side_of([-1.0], level=71.0)])
    assert both.pick is not None
    assert (both.pick.side, both.pick.position) == (1, None)
    assert both.vanilla > 0.5
    assert 0 < both.pick.regret < 1


def test_jobs_of_one_family_are_those_of_its_lessons() -> None:
    side = side_of([0.5, 0.4, 0.0, -3.0], methods=("finetune", "logme"))
    found = jobs([side._replace(at=np.array([0, 2, 3]))])
    expected = plan.values_among(side.outlook.lessons, np.array([0, 2, 3]))
    np.testing.assert_allclose(found.values.value, expected.value)
    assert found.position.tolist() == [0, 2, 3]
    timed = found.timed(np.array([5.0, 6.0, 7.0]))
    assert timed.seconds[:, 0].tolist() == [5, 6, 7]
    assert timed.seconds[:, 1].tolist() == [10, 10, 10]
    many = side_of(list(np.linspace(1, 0, JOBS + 5)))
    assert len(jobs([many]).side) == JOBS


def test_a_job_is_worth_nothing_where_another_family_is_out_of_reach() -> None:
    near, far = side_of([0.5, 0.4], level=70.0), side_of([0.5, 0.4], level=50.0)
    found = jobs([near, far])
    assert found.side.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(found.values.value[:2], jobs([near]).values.value)
    assert (found.values.value[2:] < 1e-6).all()
    level = jobs([near, near._replace(level=70.4)])
    assert (level.values.value[:2] < jobs([near]).values.value).all(), "there is a better one beside"
    assert level.values.gain.tolist() == pytest.approx([70.5, 70.4, 70.9, 70.8])


def test_methods_of_several_families_are_put_side_by_side() -> None:
    one = side_of([0.5, 0.4], level=70.0, methods=("finetune", "logme"))
    two = side_of([0.5, 0.4], level=70.0, methods=("finetune", "knn"))
    values = jobs([one, two]).values
    assert values.methods == ("finetune", "logme", "knn")
    assert (values.value[:, 1] > 0).tolist() == [True, True, False, False]
    assert (values.value[:, 2] > 0).tolist() == [False, False, True, True]
    assert values.family.tolist() == [0, 0, 1, 1]
    assert (values.lacking == 1).all()
    assert jobs([]).values.value.shape == (0, 1)
    assert plan.next_jobs(jobs([]).values, 3) == []


def test_the_floor_is_what_stands_beside() -> None:
    lessons = lessons_of(np.array([1.0, 0.9]))
    free, held = (plan.values_among(lessons, floor=floor).value for floor in (0.0, 4.0))
    assert (held < free).all()
    np.testing.assert_array_equal(free, plan.values_among(lessons).value)


def test_a_chain_of_targets_links_families() -> None:
    measured = np.array([[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]])
    found = linked(measured.astype(bool))
    assert found[0].tolist() == [True, True, True, False, False]
    assert found[3].tolist() == [False, False, False, True, False]
    assert not found[4].any()
