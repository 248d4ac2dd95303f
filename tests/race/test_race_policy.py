"""What a race does next, and what it comes to in worlds whose best start is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from headstart.race.belief import believe
from headstart.race.policy import End, Step, next_step, options, pick
from tests.race.worlds import World, drawn, raced, unknown

WORLDS = 20


def test_first_the_vanilla_then_the_one_that_most_is_expected_of() -> None:
    world = drawn(0)
    at = world.field()
    assert next_step(at) == Step(0, 0, None, "to its end")
    at = at.with_run(world.run(0, 0))
    first = int(1 + np.argmax(world.prior.gain[1:]))
    assert next_step(at) == Step(first, 0, None, "to its end")


def test_it_ends_as_hopeless_where_no_gain_is_likely() -> None:
    world = replace(drawn(0), gain=np.zeros(13))
    prior = replace(world.prior, gain=np.full(13, -2.0), covariance=0.05 * world.prior.covariance)
    at, end, steps = raced(replace(world, prior=prior))
    assert end == End("hopeless")
    assert len(steps) == 2
    assert pick(at, believe(at)) == 0


def test_runs_go_over_rungs_and_only_forward() -> None:
    made: dict[tuple[int, int], int] = {}
    for step in raced(unknown(1))[2]:
        rung = math.inf if step.evaluations is None else step.evaluations
        assert step.evaluations is None or step.evaluations in {1, 2, 4, 8}
        assert rung > made.get((step.place, step.seed), 0)
        made[step.place, step.seed] = rung  # type: ignore[assignment]


def test_the_same_field_gives_the_same_decisions() -> None:
    one, two = raced(unknown(4)), raced(unknown(4))
    assert one[2] == two[2]
    assert one[0].runs == two[0].runs


def test_two_that_cannot_be_told_apart_get_another_seed() -> None:
    """And nobody else does."""
    gain = np.append([0.0, 4.0, 4.0], np.full(2, -3.0))
    seeds = []
    for seed in range(8):
        world = replace(unknown(seed, candidates=4), gain=gain, wobble=0.1)
        at, _, _ = raced(world)
        seeds.append([len(at.of(place)) for place in range(5)])
    assert np.max(seeds, axis=0)[1:3].max() > 1
    assert np.max(seeds, axis=0)[3:].max() == 1


def test_value_is_what_the_knowledge_gradient_of_one_gain_says() -> None:
    """One candidate that is finished, run again: by hand."""
    world = unknown(5, candidates=1)
    at = world.field()
    for place in (0, 1):
        at = at.with_run(world.run(place, 0))
    belief = believe(at)
    at_end = next(one for one in options(at, belief) if one.place == 1)
    shift = abs(belief.with_level[1, 0]) / math.sqrt(belief.level_var[1] + belief.seed_noise**2)
    far = abs(float(belief.gain[0])) / shift
    density = math.exp(-0.5 * far**2) / math.sqrt(2 * math.pi)
    whole = shift * (density - far * 0.5 * math.erfc(far / math.sqrt(2)))
    assert at_end.rate >= whole / 1.2 - 1e-3


def test_large_candidates_cost_what_they_are() -> None:
    world = replace(unknown(6, candidates=4), parameters=(1.0, 1.0, 10.0, 1.0, 1.0))
    at = world.field()
    for place in (0, 1):
        at = at.with_run(world.run(place, 0))
    cost = {one.place: one.cost for one in options(at, believe(at))}
    assert cost[2] == pytest.approx(10 * cost[3])


def test_no_more_runs_than_are_paid_for() -> None:
    for most in (1, 2, 3, 6):
        at, end, _ = raced(unknown(7), most_runs=most)
        assert at.begun <= most
        assert end == End("budget")


def test_not_all_have_finished_while_a_second_seed_is_paused() -> None:
    world = replace(drawn(5, candidates=1), gain=np.array([0.0, 30.0]))
    at = world.field()
    for place in (0, 1):
        at = at.with_run(world.run(place, 0))
    assert next_step(at) == End("all_finished")
    begun = world.run(1, 1)
    at = at.with_run(replace(begun, curve=begun.curve[:1], validation=None))
    assert next_step(at) == End("decided")


def test_a_single_candidate_ends() -> None:
    for seed in range(5):
        _, end, _ = raced(drawn(seed, candidates=1))
        assert end.why in {"decided", "hopeless", "all_finished"}


# -- worlds


def one_run_each(world: World) -> int:
    return int(np.argmax([world.run(place, 0).best for place in range(len(world.gain))]))


def test_a_race_of_12_finds_a_best_start_for_a_third_of_the_seconds() -> None:
    """Beside finetuning everything once, the first by prior, and one at random."""
    cost, regret, sure, beats = [], {"race": [], "all": [], "first": [], "random": []}, [], []
    for seed in range(WORLDS):
        world = drawn(seed)
        at, _, _ = raced(world)
        belief = believe(at)
        chosen = pick(at, belief)
        cost.append(sum(run.seconds for run in at.runs) / world.cost_of_all)
        regret["race"].append(world.regret(chosen))
        regret["all"].append(world.regret(one_run_each(world)))
        regret["first"].append(world.regret(int(np.argmax(world.prior.gain))))
        regret["random"].append(float(np.mean(world.gain.max() - world.gain)))
        if chosen:
            z = belief.gain[chosen - 1] / belief.spread[chosen - 1]
            sure.append(0.5 * math.erfc(-z / math.sqrt(2)))
            beats.append(world.gain[chosen] > 0)
    mean = {name: float(np.mean(found)) for name, found in regret.items()}
    assert np.mean(cost) < 1 / 3
    assert np.mean(np.array(regret["race"]) <= 0.8) >= 0.8  # one standard deviation of a run's seed
    assert mean["race"] < mean["first"] / 2
    assert mean["race"] < mean["random"] / 5
    assert mean["race"] < mean["all"] + 0.1
    assert np.mean(sure) == pytest.approx(np.mean(beats), abs=0.1)


def test_knowing_nothing_takes_longer_and_finds_it_too() -> None:
    regret, cost, chance = [], [], []
    for seed in range(5):
        world = unknown(seed)
        at, _, _ = raced(world)
        regret.append(world.regret(pick(at, believe(at))))
        chance.append(float(np.mean(world.gain.max() - world.gain)))
        cost.append(sum(run.seconds for run in at.runs) / world.cost_of_all)
    assert np.mean(cost) < 0.6
    assert np.mean(regret) < 0.5 < np.mean(chance)


@pytest.mark.parametrize("changes", [{"spread": 0.9, "ahead": 0.0}, {"noise": 2.0, "wobble": 1.0}])
def test_crossing_and_noisy_curves_do_not_mislead_it(changes: dict[str, float]) -> None:
    found, chance = [], []
    for seed in range(6):
        world = drawn(seed, **changes)
        at, _, _ = raced(world)
        found.append(world.regret(pick(at, believe(at))))
        chance.append(float(np.mean(world.gain.max() - world.gain)))
    assert np.mean(found) < min(drawn(0, **changes).noise, np.mean(chance) / 2)


def test_the_pick_carries_no_winners_curse() -> None:
    """Its gain is what is left of its lead when noise is taken off."""
    error = []
    for seed in range(16):
        world = unknown(seed, candidates=5, spread=3.0)
        at, _, _ = raced(world)
        belief = believe(at)
        chosen = pick(at, belief)
        if chosen:
            error.append((belief.gain[chosen - 1] - world.gain[chosen]) / belief.spread[chosen - 1])
    assert abs(np.mean(error)) < 0.75
    assert np.std(error) < 1.4
