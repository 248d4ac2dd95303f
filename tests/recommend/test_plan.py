"""The worth of one more measurement, the jobs proposed, and the sequential policy."""

import numpy as np
import pytest
from scipy import stats

from headstart.recommend import decide, plan
from headstart.recommend.choice import Joint, draws, joint, regret
from headstart.recommend.plan import JobValues, Probe
from headstart.recommend.surprises import surprises
from headstart.recommend.transform import plain
from headstart.recommend.views import View, known_view, unseen_view
from tests.recommend.evidence_of import METHODS, evidence_of
from tests.recommend.evidence_of import probed as of_probes
from tests.recommend.posterior_of import posterior_of
from tests.recommend.views_of import joint_of, straight, view_of

LOGME = METHODS.index("logme")
NOISE = 0.2  # variance in z of one run of `view_of`: (1 - 0.6) * 0.5


def excess(x: float) -> float:
    """E[max(Z + x, 0)] of a standard normal, as in Frazier, Powell & Dayanik."""
    return float(x * stats.norm.cdf(x) + stats.norm.pdf(x))


def values_of(view: View, known: Joint, runs: object = 0, probes: tuple[Probe, ...] = ()) -> JobValues:
    gain = plan.lines(view, known).expected @ view.weights
    runs_here = np.broadcast_to(np.asarray(runs), gain.shape)
    return plan.values_among(plan.lessons(view, known, gain, runs_here, np.full(len(gain), 100.0), probes))


# ---------------------------------------------------------------- gains as lines


def test_a_straight_transform_is_its_own_line() -> None:
    found = plan.lines(view_of(transforms=(straight(2.0, 1.0),)), joint_of([0.5, -1.0], [0.3, 0.9]))
    np.testing.assert_allclose(found.expected[:, 0], [2.0, -1.0])
    np.testing.assert_allclose(found.slope[:, 0], 2.0)


def test_the_line_of_a_curved_transform_is_its_regression() -> None:
    view, known = view_of(transforms=(plain(0.0, 1.5),)), joint_of([0.4, -1.0], [0.5, 0.3])
    found = plan.lines(view, known)
    z = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    for m in range(2):
        gain = view.transforms[0].gain(known.mean[m] + known.spread[m] * z)
        assert found.expected[m, 0] == pytest.approx(gain.mean(), abs=0.005)
        assert found.slope[m, 0] == pytest.approx(np.mean(gain * z) / known.spread[m, 0], rel=0.01)


def test_covariance_is_that_of_draws_of_a_gaussian_mixture() -> None:
    rng = np.random.default_rng(0)
    view = view_of(2, weights=np.array([0.3, 0.7]), transforms=(straight(2.0), straight(0.5)))
    shared = np.concatenate([0.3 * rng.normal(size=(4, 2, 3)), np.full((4, 2, 1), 0.4)], axis=2)
    known = Joint(rng.normal(size=(4, 2)), np.full((4, 2), 2.0), shared)
    found = plan.covariance(view, known, plan.lines(view, known))
    parts = []
    for k, (weight, slope) in enumerate(((0.3, 2.0), (0.7, 0.5))):
        count = int(weight * 400_000)
        z = known.mean[:, k] + rng.normal(size=(count, 3)) @ shared[:, k, :3].T
        parts.append(slope * (z + np.sqrt(known.own[:, k]) * rng.normal(size=(count, 4))))
    np.testing.assert_allclose(found, np.cov(np.concatenate(parts).T), atol=0.05)


# ---------------------------------------------------------------- the value of a job


@pytest.mark.parametrize(("first", "second"), [(1.0, 0.6), (1.0, 1.0), (0.2, 2.0)])
def test_the_value_of_measuring_one_of_two(first: float, second: float) -> None:
    spread = np.array([0.5, 0.3])
    far = view_of(transforms=(straight(2.0, 10.0),))  # the vanilla is far below
    found = values_of(far, joint_of([first, second], spread))
    shift = 2.0 * spread**2 / np.sqrt(spread**2 + NOISE)
    expected = [s * excess(-abs(2.0 * (first - second)) / s) for s in shift]
    np.testing.assert_allclose(found.value[:, 0], expected, rtol=0.005, atol=1e-5)


def test_the_vanilla_is_a_rival() -> None:
    found = values_of(view_of(), joint_of([-0.1], [0.4]))
    shift = 0.16 / np.sqrt(0.16 + NOISE)
    assert found.value[0, 0] == pytest.approx(shift * excess(-0.1 / shift), rel=0.005)


def test_noise_takes_value_away() -> None:
    known = joint_of([0.5, 0.4, 0.0], 0.4)
    by_noise = [
        values_of(view_of(repeatable=np.array([rho])), known).value[:, 0] for rho in (1.0, 0.5, 0.0)
    ] + [values_of(view_of(residual=np.array([1e9])), known).value[:, 0]]
    assert (np.diff(by_noise, axis=0) < 0).all()
    np.testing.assert_allclose(by_noise[-1], 0, atol=1e-6)
    alone = values_of(view_of(repeatable=np.array([1.0])), joint_of([0.5], 0.4)).value[0, 0]
    assert alone == pytest.approx(0.4 * excess(-0.5 / 0.4), rel=0.005), "without noise the run tells all"


def test_what_is_known_is_worth_nothing() -> None:
    found = values_of(view_of(), joint_of([1.0, 0.5, 0.2], [0.0, 0.0, 0.0]))
    np.testing.assert_array_equal(found.value, 0)


def test_two_that_move_as_one_cannot_change_places() -> None:
    far = view_of(transforms=(straight(offset=10.0),))
    as_one = values_of(far, joint_of([1.0, 0.95], 0.5, shared=0.5))
    apart = values_of(far, joint_of([1.0, 0.95], 0.5))
    np.testing.assert_allclose(as_one.value, 0, atol=1e-9)
    assert (apart.value > 0.1).all()


def test_the_doubt_about_the_level_is_no_news() -> None:
    with_level, without = joint_of([0.1, 0.0], 0.5, level=0.3), joint_of([0.1, 0.0], np.sqrt(0.25 - 0.09))
    np.testing.assert_allclose(
        values_of(view_of(), with_level).value, values_of(view_of(), without).value, rtol=1e-9
    )


def test_one_run_tells_about_others() -> None:
    shared = np.zeros((3, 1, 3))
    shared[:, 0, 0] = 0.45, 0.45, 0.0  # the first two go together
    known = Joint(np.array([[1.0], [0.9], [1.0]]), np.full((3, 1), 0.5), shared)
    far = view_of(transforms=(straight(offset=10.0),))
    found = plan.covariance(far, known, plan.lines(far, known))
    np.testing.assert_allclose(found, [[0.25, 0.2025, 0], [0.2025, 0.25, 0], [0, 0, 0.25]], atol=1e-12)
    worth = plan.knowledge_gradient(np.array([1.0, 0.9, 1.0]), found / 0.5)
    z = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    lines = np.array([1.0, 0.9, 1.0])[:, None, None] + (found / 0.5)[:, :, None] * z
    expected = np.array([np.maximum(lines[:, i].max(axis=0), 0).mean() for i in range(3)]) - 1.0
    np.testing.assert_allclose(worth, expected, rtol=0.005)


def value_by_integration(gain: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The knowledge gradient by the middles of 20,000 strata of Z."""
    z = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    rises = [np.maximum((gain + z[:, None] * job).max(axis=1), 0).mean() for job in shift]
    return np.asarray(np.array(rises) - max(gain.max(), 0))


@pytest.mark.parametrize("scale", [0.1, 0.5, 2.0])
def test_the_knowledge_gradient_among_many(scale: float) -> None:
    """Kinks between the same two nodes are told as one, seen only where every job moves all at random."""
    rng = np.random.default_rng(11)
    gain = np.sort(rng.normal(1, 0.5, size=20))[::-1]
    mostly_own = scale * (np.eye(20) + 0.2 * rng.random((20, 20)))
    found = plan.knowledge_gradient(gain, mostly_own)
    np.testing.assert_allclose(found, value_by_integration(gain, mostly_own), rtol=1e-3, atol=1e-4 * scale)
    at_random = scale * rng.normal(0.3, 0.5, size=(20, 20))
    found, exact = plan.knowledge_gradient(gain, at_random), value_by_integration(gain, at_random)
    np.testing.assert_allclose(found, exact, rtol=0.03, atol=1e-5)
    assert (found < exact + 1e-3 * scale).all(), "a lower bound"


def test_the_knowledge_gradient_beside_the_exact_upper_envelope() -> None:
    """The figures of the docstring in small: never more than a table's rounding above, and little below."""
    rng = np.random.default_rng(2)
    short, exact = [], []
    for _ in range(60):
        gain = np.sort(rng.normal(1, 0.8, size=20))[::-1]
        root = rng.normal(size=(20, 3)) * [1.0, 0.5, 0.3]
        told = root @ root.T + np.diag(rng.uniform(0.1, 1.0, 20))
        shift = told / np.sqrt(np.diag(told) + 0.3)[:, None]
        exact.append([upper_envelope(np.append(gain, 0.0), np.append(one, 0.0)) for one in shift])
        short.append(np.array(exact[-1]) - plan.knowledge_gradient(gain, shift))
    assert np.min(short) > -1e-5
    assert np.sum(short) < 0.005 * np.sum(exact)
    assert np.max(np.array(short) / np.max(exact, axis=1, keepdims=True)) < 0.05


def upper_envelope(level: np.ndarray, slope: np.ndarray) -> float:
    """E[max_j level_j + slope_j Z] - max_j level_j: the kinks of the maximum one by one, from the left."""
    at, value, place = int(np.lexsort((level, -slope))[-1]), 0.0, -np.inf
    while True:
        steeper = np.flatnonzero(slope > slope[at] + 1e-12)
        if not len(steeper):
            return value
        meets = (level[at] - level[steeper]) / (slope[steeper] - slope[at])
        first = meets >= place
        meets, steeper = meets[first], steeper[first]
        place = float(meets.min())
        then = steeper[np.isclose(meets, place, atol=1e-12)]
        best = int(then[slope[then].argmax()])
        value += (slope[best] - slope[at]) * excess(-abs(place))
        at = best


def test_value_is_never_negative_nor_above_the_regret() -> None:
    rng = np.random.default_rng(4)
    view = view_of(3, weights=np.array([0.2, 0.3, 0.5]))
    known = joint_of(rng.normal(0, 0.5, size=(60, 3)), 0.6, shared=0.3, level=0.1)
    found = values_of(view, known)
    assert (found.value >= 0).all()
    drawn = draws(view, known)
    assert found.value.max() < regret(drawn, int(drawn.mean(axis=1).argmax()))


def test_value_does_not_depend_on_the_order_of_the_rows() -> None:
    rng = np.random.default_rng(5)
    view, mean = view_of(3), rng.normal(0, 0.5, size=(30, 3))
    order = rng.permutation(30)
    one, other = (values_of(view, joint_of(m, 0.6, shared=0.3)) for m in (mean, mean[order]))
    np.testing.assert_allclose(other.value, one.value[order], rtol=1e-9)


def test_the_value_of_a_probe() -> None:
    known, done = joint_of([0.5, 0.3, 0.0], 0.6), np.array([False, False, True])
    some = Probe("logme", 0.25, done, np.full(3, 5.0), probed=8)
    found = values_of(view_of(slope=2.0), known, probes=(some, some._replace(method="knn", weight=0.0)))
    assert found.methods == ("finetune", "logme")
    shift = 0.25 * 2.0 * 9 / 13
    expected = shift * excess(-0.4 / shift)
    np.testing.assert_allclose(found.value[:, 1], [expected, expected, 0.0], rtol=1e-9)
    assert found.value[0, 0] > expected
    strong = values_of(view_of(slope=2.0), known, probes=(some._replace(weight=50.0),))
    assert strong.value[0, 1] == pytest.approx(1.2 * excess(-0.4 / 1.2)), "no more than there is to know"
    tried = values_of(view_of(slope=2.0), known, [1, 0, 0], (some,))
    assert tried.value[0, 1] == 0, "its finetune has told more"


@pytest.mark.parametrize(
    ("probed", "lacking", "group"), [(0, 3, 3), (1, 2, 3), (2, 1, 3), (3, 1, 4), (20, 1, 21)]
)
def test_a_probe_is_worth_what_its_group_lets_it_move(probed: int, lacking: int, group: int) -> None:
    """Beside what `surprises` makes of the last of a group of equally good checkpoints."""
    one = Probe("logme", 0.25, np.zeros(2, bool), np.ones(2), probed)
    assert (one.lacking, one.share) == (lacking, group / (group + 4))
    rng, moved = np.random.default_rng(0), []
    for _ in range(300):
        values = np.append(0.0, rng.normal(size=group))
        evidence = of_probes(evidence_of(np.zeros((group, 1))), values, target=0)
        moved.append(surprises(evidence, None, np.zeros(group + 1)).level[-1, LOGME])
    assert np.std(moved) == pytest.approx(one.share, rel=0.2)
    two = of_probes(evidence_of(np.zeros((2, 1))), np.array([0.0, 1.0, 2.0]), target=0)
    assert not surprises(two, None, np.zeros(3)).known.any(), "two of them tell nothing"


def test_seed_noise_is_as_much_wider_as_all_intervals_are() -> None:
    """A fit whose intervals were widened trusts a run no more: the shift grows with the widening itself."""
    gain, runs, seconds = np.array([0.3, 0.2]), np.zeros(2, dtype=np.int64), np.ones(2)
    plain = plan.lessons(view_of(), joint_of(gain, 0.4), gain, runs, seconds)
    wide = plan.lessons(view_of(), joint_of(gain, 0.6), gain, runs, seconds, widening=1.5)
    np.testing.assert_allclose(wide.shift, 1.5 * plain.shift)
    assert wide.shift[0, 0] == pytest.approx(0.36 / np.sqrt(0.36 + 1.5**2 * NOISE))


def test_the_choice_among_a_few() -> None:
    rng = np.random.default_rng(6)
    view, mean = view_of(2), rng.normal(0, 0.4, size=(20, 2))
    gain = mean.mean(axis=1)
    probe = Probe("logme", 0.2, np.zeros(20, bool), np.full(20, 5.0))
    all_of = plan.lessons(
        view, joint_of(mean, 0.6, shared=0.3), gain, np.zeros(20, int), np.ones(20), (probe,)
    )
    few = np.array([3, 7, 11, 19])
    some = plan.values_among(all_of, few)
    part = Probe("logme", 0.2, np.zeros(4, bool), np.full(4, 5.0))
    known = joint_of(mean[few], 0.6, shared=0.3)
    alone = plan.values_among(plan.lessons(view, known, gain[few], np.zeros(4, int), np.ones(4), (part,)))
    np.testing.assert_allclose(some.value, alone.value, rtol=1e-9)
    np.testing.assert_array_equal(some.gain, gain[few])
    raised = plan.values_among(all_of, few, floor=50.0)
    np.testing.assert_allclose(raised.value, 0, atol=1e-9)  # nothing comes near what stands beside


# ---------------------------------------------------------------- what is proposed


def by_hand(
    value: object, seconds: object, gain: object, finetuned: object, methods: tuple[str, ...] = ("finetune",)
) -> JobValues:
    worth = np.asarray(value, dtype=float).reshape(len(np.asarray(gain)), -1)
    cost = np.broadcast_to(np.asarray(seconds, dtype=float), worth.shape)
    return JobValues(
        methods=methods,
        value=worth,
        seconds=cost,
        gain=np.asarray(gain, float),
        finetuned=np.asarray(finetuned, bool),
        lacking=np.ones(worth.shape, dtype=np.int64),
        family=np.zeros(len(worth), dtype=np.int64),
    )


def test_the_first_finetunes_are_those_of_the_highest_expected_gain() -> None:
    values = by_hand([1, 2, 3, 4, 5], 10, [0.5, 0.4, 0.9, 0.1, 0.2], [0, 0, 0, 1, 1])
    assert [job.row for job in plan.next_jobs(values, 5)] == [2, 0, 1]
    assert [job.row for job in plan.next_jobs(values, 1)] == [2]


def test_then_value_a_second_decides() -> None:
    values = by_hand([1, 2, 3, 0, 5], [[1], [10], [10], [10], [100]], np.zeros(5), [1, 1, 1, 0, 0])
    found = plan.next_jobs(values, 9)
    assert [job.row for job in found] == [0, 2, 1, 4], "the one that cannot change the choice is left out"
    assert found[0] == (0, "finetune", 1.0, 1.0, 1.0)
    allowed = np.array([False, True, False, True, True])
    assert [job.row for job in plan.next_jobs(values, 9, allowed)] == [1, 4]


def test_no_checkpoint_is_proposed_twice() -> None:
    value, seconds = [[1.0, 0.2], [2.0, 0.1], [0.5, 0.4]], [[100.0, 5.0]]
    values = by_hand(value, seconds, [1, 2, 3], [1, 1, 1], ("finetune", "logme"))
    found = plan.next_jobs(values, 9)
    assert [(job.row, job.method) for job in found] == [(2, "logme"), (0, "logme"), (1, "finetune")]
    assert found[2].value_per_second == pytest.approx(0.02)


@pytest.mark.parametrize("finetuned", [0, 1])
def test_probes_that_tell_nothing_alone_are_named_together_or_not_at_all(finetuned: int) -> None:
    value, gain = [[1.0, 0.9], [0.8, 0.7], [0.6, 0.5], [0.4, 0.3]], [4, 3, 2, 1]
    values = by_hand(value, [[100.0, 5.0]], gain, np.full(4, finetuned), ("finetune", "logme"))
    short = values._replace(lacking=np.tile([1, 3], (4, 1)))
    for told in (values, short):
        assert [job.method for job in plan.next_jobs(told, 3)] == ["logme"] * 3
    assert [job.method for job in plan.next_jobs(values, 2)] == ["logme"] * 2
    assert [job.method for job in plan.next_jobs(short, 2)] == ["finetune"] * 2, "two would tell nothing"
    families = short._replace(family=np.array([0, 0, 1, 1]))
    found = plan.next_jobs(families, 4)
    assert [job.method for job in found] == ["finetune"] * 4, "nor would two of each family"
    one_short = short._replace(value=np.array([[1.0, 0.9], [0.8, 0.7], [0.6, 0.0], [0.4, 0.0]]))
    assert [job.method for job in plan.next_jobs(one_short, 3)] == ["finetune"] * 3


def test_a_small_family_that_is_all_finetuned_gets_more_seeds() -> None:
    values = by_hand([0.1, 0.3], 10, [1, 0], [1, 1])
    assert [job.row for job in plan.next_jobs(values, 3)] == [1, 0]
    wide = by_hand([0.1, 0.3, 9], 10, [1, 0, 5], [1, 1, 0])
    assert [job.row for job in plan.next_jobs(wide, 3, np.array([True, True, False]))] == [1, 0]
    assert plan.next_jobs(wide, 3, np.zeros(3, bool)) == []


# ---------------------------------------------------------------- one after the other


def test_the_sequential_policy() -> None:
    gain, spread = np.array([0.2, 0.1, 0.5, 0.4, 0.3]), np.array([0.9, 0.9, 0.1, 0.2, 0.5])
    done = np.zeros(5, bool)
    order = []
    while (row := plan.pick_next(gain, spread, done)) is not None:
        order.append(row)
        done[row] = True
    assert order[:3] == [2, 3, 4], "the first by expected gain, however open the others are"
    assert order[3:] == [0, 1]
    hopeful = plan.pick_next(gain, spread, np.array([0, 0, 1, 1, 1], bool) ^ np.array([0, 1, 0, 0, 1], bool))
    assert hopeful == 0, "then 0.2 + half of 0.9, and no longer 0.3 + half of 0.5"
    allowed = np.array([False, False, False, True, True])
    assert plan.pick_next(gain, spread, np.zeros(5, bool), allowed) == 3
    assert plan.pick_next(gain, spread, np.ones(5, bool)) is None
    sure = plan.pick_next(gain, np.zeros(5), np.array([1, 1, 1, 0, 0], bool))
    assert sure == 3, "with nothing to win, the highest expected gain"


def test_expected_excess() -> None:
    found = plan.expected_excess(np.array([0.0, 1.0, -1.0, -2.0, 2.0]), np.array([1.0, 2.0, 2.0, 0.0, 0.0]))
    np.testing.assert_allclose(found, [0.39894228, 2 * excess(0.5), 2 * excess(-0.5), 0.0, 2.0], rtol=1e-7)


def test_the_spread_in_points() -> None:
    view = view_of(2, weights=np.array([0.5, 0.5]), transforms=(straight(2.0), straight(1.0, 1.0)))
    found = plan.spread_in_points(view, joint_of([[0.0, 0.0]], 0.5, level=0.3))
    within = 0.5 * (4 + 1) * (0.25 - 0.09)
    assert found[0] == pytest.approx(np.sqrt(within + 0.25))


# ---------------------------------------------------------------- on a posterior


@pytest.mark.parametrize("target", [0, 3, None])
def test_a_plan_from_a_posterior(target: int | None) -> None:
    posterior = posterior_of()
    view = unseen_view(posterior, np.ones(5)) if target is None else known_view(posterior, target)
    found = decide.predict(posterior, view, np.arange(1, 12))
    known = joint(view, found, float(posterior.calibration[2]))
    probe = Probe("logme", float(posterior.probe_weight[0]), found.probes_here > 0, np.full(11, 3.0))
    taught = plan.lessons(view, known, found.gain, found.runs_here, np.full(11, 60.0), (probe,))
    worth = plan.values_among(taught)
    jobs = plan.next_jobs(worth, 3)
    assert len({job.row for job in jobs}) == 3
    cold = (found.runs_here > 0).sum() < plan.BEFORE_VALUES
    by = [worth.gain[job.row] if cold else job.value_per_second for job in jobs]
    assert by == sorted(by, reverse=True)
    assert np.isfinite(worth.value).all()


@pytest.mark.parametrize("rows", [0, 1])
def test_odd_plans(rows: int) -> None:
    known = joint_of(np.zeros((rows, 2)), np.zeros((rows, 2)))
    found = values_of(view_of(2, level=float("nan")), known)
    assert found.value.shape == (rows, 1)
    assert len(plan.next_jobs(found, 3)) == rows
    assert plan.spread_in_points(view_of(2), known).shape == (rows,)
