"""Families drawn from the model, asked as users ask: intervals cover, and only what counts changes an answer.

`test_fit` has the same of known targets and of the fit's own arrays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from headstart.recommend import decide
from headstart.recommend.condition import conditioned, view_of
from headstart.recommend.fit import fit
from tests.recommend.model_world import World, only, targets_of, with_scores, world_of

if TYPE_CHECKING:
    from headstart.recommend.decide import Prediction
    from headstart.recommend.evidence import FamilyEvidence
    from headstart.recommend.posterior import Posterior

NEVER = 40  # checkpoints of each world that were never finetuned
TARGETS = 20
WORDS = ("mnli", "squad", "x")


@pytest.fixture(scope="module")
def drawn() -> list[tuple[World, Posterior]]:
    """Families of which the first checkpoints were never finetuned, nor any on the last target."""
    found = []
    for seed in range(6):
        world = world_of(targets_of(seed, TARGETS + 1), seed, checkpoints=160)
        seen = np.ones(world.run.shape, dtype=bool)
        seen[:NEVER], seen[:, TARGETS] = False, False
        found.append((world, fit(world.evidence(seen))))
    return found


def held(found: Prediction, true: np.ndarray, view: decide.View) -> np.ndarray:
    """Whether each 80 % interval holds the true gain, cut to what leaves the score within 0..1."""
    true = np.clip(true, *view.bounds)
    return np.asarray((found.low <= true) & (true <= found.high))


# ---------------------------------------------------------------- intervals cover


def test_they_cover_checkpoints_that_nobody_finetuned(drawn: list[tuple[World, Posterior]]) -> None:
    shares, rows = [], np.arange(NEVER)
    for world, fitted in drawn:
        for t in range(TARGETS):
            view = view_of(fitted, t)
            shares.append(held(decide.predict(fitted, view, rows + 1), world.true[rows, t], view))
    assert np.mean(shares) == pytest.approx(0.8, abs=0.04)


def test_they_cover_a_target_that_nobody_ran() -> None:
    shares = []
    for seed in range(3):
        world = world_of(targets_of(seed, 16), seed, checkpoints=120)
        everything, rows = world.evidence(), np.arange(120)
        for t in range(0, 16, 2):
            fitted = fit(only(everything, np.flatnonzero(everything.target != t)))
            view = decide.unseen_view(fitted, np.ones(16))
            shares.append(held(decide.predict(fitted, view, rows + 1), world.true[:, t], view).mean())
    assert len(shares) == 24
    assert np.mean(shares) == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize("count", [3, 10])
def test_they_cover_a_target_that_few_were_measured_on(
    drawn: list[tuple[World, Posterior]], count: int
) -> None:
    shares = []
    for seed, (world, fitted) in enumerate(drawn):
        for again in range(4):
            order = np.random.default_rng([seed, again]).permutation(np.arange(NEVER, 160))
            told, rest = np.sort(order[:count]), order[count:]
            known = conditioned(fitted, TARGETS, told + 1, world.run[told, TARGETS])
            view = view_of(known, TARGETS)
            shares.append(held(decide.predict(known, view, rest + 1), world.true[rest, TARGETS], view).mean())
    assert np.mean(shares) == pytest.approx(0.8, abs=0.08)


# ---------------------------------------------------------------- parameters are recovered


def test_a_point_of_quality_is_the_same_whether_a_probe_or_finetunes_told_it(
    drawn: list[tuple[World, Posterior]],
) -> None:
    """Slope of the truth on the posterior mean: the same for both where the slopes of the prior are right."""
    ratios = []
    for world, fitted in drawn:
        truth = world.factors @ world.targets.loadings[:TARGETS].mean(axis=0)
        never, measured = slice(0, NEVER), slice(NEVER, None)
        slopes = [np.polyfit(fitted.quality[1:][rows], truth[rows], 1)[0] for rows in (never, measured)]
        ratios.append(slopes[0] / slopes[1])
    assert np.mean(ratios) == pytest.approx(1, abs=0.2)


# ---------------------------------------------------------------- what changes no answer


@pytest.fixture(scope="module")
def small() -> FamilyEvidence:
    """50 checkpoints on 7 targets, with names; on the last target only the vanilla and five of them ran."""
    world = world_of(targets_of(6, 7), 6, checkpoints=50)
    seen = np.random.default_rng(6).random(world.run.shape) < 0.7
    seen[:, 6] = np.arange(50) % 10 == 0
    names = ("base", *(f"a{m}/bert-{WORDS[m % 3]}-{m}" for m in range(50)))
    return replace(world.evidence(seen), checkpoint_names=names)


def answers(evidence: FamilyEvidence, *others: FamilyEvidence) -> dict[int, np.ndarray]:
    """Expected gain, interval and P(beats) of every checkpoint, by its id: on a known target, on one with few
    runs, on that one with a new score, on one never seen."""
    fitted = fit(evidence, others)
    place = {int(one): at for at, one in enumerate(evidence.checkpoint_ids)}
    known, few = (int(np.flatnonzero(evidence.target_ids == one)[0]) for one in (502, 506))
    told = conditioned(fitted, few, np.array([place[103]]), np.array([1.5]))
    rows = np.delete(np.arange(len(place)), fitted.vanilla)
    found = []
    for posterior, view in (
        (fitted, view_of(fitted, known)),
        (fitted, view_of(fitted, few)),
        (told, view_of(told, few)),
        (fitted, decide.unseen_view(fitted, np.ones(len(evidence.target_ids)))),
    ):
        one = decide.predict(posterior, view, rows)
        found += [one.gain, one.low, one.high, one.p_beats]
    return dict(zip(evidence.checkpoint_ids[rows].tolist(), np.array(found).T, strict=True))


def assert_the_same(one: dict[int, np.ndarray], two: dict[int, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    for checkpoint, values in one.items():
        np.testing.assert_allclose(two[checkpoint], values, rtol=1e-4, atol=1e-4, err_msg=str(checkpoint))


def test_the_order_of_everything_changes_no_answer(small: FamilyEvidence) -> None:
    rng = np.random.default_rng(3)
    checkpoints, targets = rng.permutation(51), rng.permutation(7)
    row, column = np.argsort(checkpoints), np.argsort(targets)
    mixed = replace(
        small,
        checkpoint_names=tuple(small.checkpoint_names[m] for m in checkpoints),
        checkpoint_ids=small.checkpoint_ids[checkpoints],
        vanilla=int(row[0]),
        target_ids=small.target_ids[targets],
        target_names=tuple(small.target_names[t] for t in targets),
        checkpoint=row[small.checkpoint],
        target=column[small.target],
        probed_checkpoint=row[small.probed_checkpoint],
        probed_target=column[small.probed_target],
    )
    assert_the_same(answers(small), answers(only(mixed, rng.permutation(len(small.value)))))


def test_names_of_authors_targets_and_families_change_no_answer(small: FamilyEvidence) -> None:
    own = [name.rpartition("/")[2] for name in small.checkpoint_names]
    renamed = replace(
        small,
        family="other",
        checkpoint_names=("other", *(f"squad-mnli{m % 4}/{name}" for m, name in enumerate(own[1:]))),
        target_names=tuple("gfedcba"),
    )
    assert_the_same(answers(small), answers(renamed))
    told_apart = replace(small, checkpoint_names=("base", *(f"a/{WORDS[0]}-{m}" for m in range(50))))
    one, two = answers(small), answers(told_apart)
    assert max(np.abs(one[m] - two[m]).max() for m in one) > 0.01, "words do count"


def test_the_order_of_other_families_changes_no_answer(small: FamilyEvidence) -> None:
    first, second = (world_of(targets_of(6, 7), 7 + k, checkpoints=30 + 20 * k).evidence() for k in range(2))
    assert_the_same(answers(small, first, second), answers(small, second, first))
    alone, leaning = answers(small), answers(small, first)
    assert max(np.abs(alone[m] - leaning[m]).max() for m in alone) > 0.01, "they do count"


def test_a_score_repeated_changes_no_answer_and_one_more_seed_does(small: FamilyEvidence) -> None:
    cell = int(np.flatnonzero((small.checkpoint > 0) & (small.target == 2))[0])
    row, value = int(small.checkpoint[cell]), small.value[cell]
    own = int(small.checkpoint_ids[row])
    before = answers(small)
    again = with_scores(small, row, 2, np.full(3, value))
    assert_the_same(before, answers(again))
    seeds = answers(with_scores(small, row, 2, np.full(3, value), seed=np.arange(1, 4)))
    low, high = before[own][1:3]
    assert seeds[own][2] - seeds[own][1] < 0.95 * (high - low)
