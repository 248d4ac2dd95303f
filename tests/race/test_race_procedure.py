"""The race on a bench: budgets, failures, collapses, a second attempt, and test rows that nobody looks at."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from headstart.failures import CheckpointNotFound, NonFinite, NotApplicable, TargetNotFound
from headstart.methods import finetune
from headstart.procedures import PROCEDURES
from headstart.procedures.race import FILE
from headstart.race.policy import LEAST
from headstart.workbench import Briefing, KnownRun
from tests.race.race_bench import STEP_SECONDS, STEPS, Died, Track, bench_of, params_of, race
from tests.race.worlds import drawn, unknown

if TYPE_CHECKING:
    from pathlib import Path

WORLD = drawn(1)
A_RUN = STEPS * STEP_SECONDS * 10  # seconds of a whole run at most


def test_a_race_names_a_start_and_keeps_every_finished_score(tmp_path: Path) -> None:
    bench = bench_of(WORLD, tmp_path)
    found = race(bench)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["verdict"] == "start_from"
    assert found["pick"]["name"] in found["sentence"]
    assert found["ended"] == "decided"
    low, high = found["gain_interval"]
    assert low < found["expected_gain"] < high
    best = [one["p_best"] for one in found["candidates"]]
    assert sum(best) == pytest.approx(1, abs=1e-3)
    assert found["candidates"][0] | {"runs": 0} == {
        "id": 100, "name": "vanilla", "vanilla": True, "prior_gain": 0.0, "expected_gain": 0.0,
        "gain_interval": [0.0, 0.0], "p_best": best[0], "p_worth": 0.0, "runs": 0,
    }  # fmt: skip
    runs = [run for one in found["candidates"] for run in one["runs"]]
    assert found["runs"] == len(runs)
    assert found["seconds"] == bench.track.seconds
    assert found["share"] == pytest.approx(found["seconds"] / found["seconds_of_all"], abs=1e-4)
    finished = {
        (one["id"], run["seed"]) for one in found["candidates"] for run in one["runs"] if run["finished"]
    }
    assert {(one.id, seed) for one, _, _, seed, _, _ in bench.kept} == finished
    assert all(method is finetune.METHOD for _, method, *_ in bench.kept)
    picked = next(one for one in found["candidates"] if one["id"] == found["pick"]["id"])
    assert any(run["finished"] for run in picked["runs"])


def test_the_vanilla_and_the_first_by_prior_run_first_and_to_their_ends(tmp_path: Path) -> None:
    bench = bench_of(WORLD, tmp_path)
    race(bench)
    assert bench.track.asked[:2] == [(0, 0, None), (int(WORLD.prior.gain.argmax()), 0, None)]
    rungs = {evaluations for _, _, evaluations in bench.track.asked}
    assert rungs <= {1, 2, 4, 8, None}


def test_the_test_rows_have_no_say(tmp_path: Path) -> None:
    told = []
    for scramble in (0, 1):
        bench = bench_of(WORLD, tmp_path / str(scramble), track=Track(WORLD, test_values=scramble))
        told.append((race(bench), bench.track.asked, bench.track.said))
        values = [found.value for *_, found, _ in bench.kept]
        told[-1] += (values,)
    assert told[0][:3] == told[1][:3]
    assert told[0][3] != told[1][3]


def test_a_person_can_follow_it(tmp_path: Path) -> None:
    bench = bench_of(WORLD, tmp_path)
    race(bench)
    assert bench.track.said[0] == "run 1: vanilla to its end"
    assert "run 3" in "".join(bench.track.said)
    assert "P(best)" in bench.track.said[-1]


def test_a_run_keeps_its_number(tmp_path: Path) -> None:
    bench = bench_of(unknown(1), tmp_path)
    race(bench)
    runs = {tuple(said.split()[1:3]) for said in bench.track.said if said.startswith("run ")}
    assert len(bench.track.asked) > len(runs) == len({number for number, _ in runs})


@pytest.mark.parametrize("budget", [0, -1, -0.5])
@pytest.mark.parametrize("name", ["budget_seconds", "budget_runs"])
def test_a_budget_of_nothing_is_refused(name: str, budget: float) -> None:
    if name == "budget_runs" and budget != int(budget):
        return
    with pytest.raises(ValidationError, match="buys no finetune"):
        params_of(WORLD, **{name: budget})


@pytest.mark.parametrize("share", [0.3, 1.4, 2.2, 3.0])
def test_a_budget_of_seconds_holds_to_within_a_step(tmp_path: Path, share: float) -> None:
    bench = bench_of(WORLD, tmp_path)
    found = race(bench, budget_seconds=share * A_RUN)
    assert found["ended"] == "budget" or found["seconds"] < share * A_RUN
    assert found["seconds"] <= share * A_RUN + STEP_SECONDS
    assert (found["verdict"] == "undecided") == (share < 1)


@pytest.mark.parametrize("most", [1, 2, 4])
def test_a_budget_of_runs_holds(tmp_path: Path, most: int) -> None:
    world = unknown(3)
    found = race(bench_of(world, tmp_path), budget_runs=most)
    assert found["runs"] == most
    assert found["ended"] == "budget"
    assert "a larger one may say otherwise" in found["sentence"] or found["verdict"] == "undecided"
    assert (found["verdict"] == "undecided") == (most == 1)


@pytest.mark.parametrize("dies_at", [30.0, 205.0, 260.0])
def test_a_second_attempt_goes_on_where_the_first_one_was(tmp_path: Path, dies_at: float) -> None:
    world = unknown(2)
    whole = bench_of(world, tmp_path / "whole")
    expected = race(whole)
    track = Track(world, dies_at=dies_at)
    bench = bench_of(world, tmp_path / "parts", track=track)
    with pytest.raises(Died):
        race(bench)
    track.dies_at = None
    kept = tuple(
        KnownRun(
            checkpoint_id=one.id, seed=seed, validation=found.details["validation"],
            curve=tuple(found.details["curve"]), collapsed=False, seconds=seconds,
        )
        for one, _, _, seed, found, seconds in bench.kept
    )  # fmt: skip
    again = replace(bench, briefing=replace(bench.briefing, known=kept))  # the store has them by now
    found = race(again)
    twice = [one for one in track.asked if track.asked.count(one) > 1]
    assert len(set(twice)) <= 1  # what it died in
    lost = found["seconds"] - expected["seconds"]
    assert found | {"seconds": 0, "share": 0} == expected | {"seconds": 0, "share": 0}
    assert 0 <= lost <= A_RUN
    told = json.loads((tmp_path / "parts" / FILE).read_text())
    assert told["seconds"] == found["seconds"]


def test_a_file_that_is_broken_begins_anew(tmp_path: Path) -> None:
    expected = race(bench_of(WORLD, tmp_path / "a"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / FILE).write_text("{")
    assert race(bench_of(WORLD, tmp_path / "b")) == expected


def test_known_runs_cost_nothing(tmp_path: Path) -> None:
    world = drawn(1)
    first = int(world.prior.gain.argmax())
    known = tuple(
        KnownRun(
            checkpoint_id=world.ids[place],
            seed=0,
            validation=run.validation or 0.0,
            curve=tuple({"validation": value} for value in run.curve),
            collapsed=False,
            seconds=50.0,
        )
        for place in (0, first)
        if (run := world.run(place, 0))
    )
    bench = bench_of(world, tmp_path)
    found = race(replace(bench, briefing=replace(bench.briefing, known=known)))
    assert (0, 0, None) not in bench.track.asked
    assert (first, 0, None) not in bench.track.asked
    assert found["candidates"][0]["runs"][0]["known"]
    assert found["runs"] == sum(not run["known"] for one in found["candidates"] for run in one["runs"])


def test_who_cannot_be_run_leaves_and_the_race_goes_on(tmp_path: Path) -> None:
    first = int(WORLD.prior.gain.argmax())
    fails = {first: CheckpointNotFound("It has gone."), 3: NonFinite("The loss is nan.")}
    bench = bench_of(WORLD, tmp_path, track=Track(WORLD, fails=fails))
    found = race(bench)
    assert found["verdict"] in {"start_from", "stay_with_vanilla"}
    assert found["failures"][0] == {
        "id": WORLD.ids[first], "name": f"cand-{first}", "failure": "CheckpointNotFound",
        "sentence": "It has gone.",
    }  # fmt: skip
    assert found["candidates"][first]["p_best"] == 0.0
    assert found["pick"]["id"] != WORLD.ids[first]


def test_the_vanillas_failure_is_the_jobs(tmp_path: Path) -> None:
    with pytest.raises(NonFinite, match="nan"):
        race(bench_of(WORLD, tmp_path, track=Track(WORLD, fails={0: NonFinite("The loss is nan.")})))
    with pytest.raises(TargetNotFound):
        race(
            bench_of(
                WORLD,
                tmp_path,
                track=Track(WORLD, fails={2: TargetNotFound("No rows."), 0: TargetNotFound("")}),
            )
        )


def test_all_candidates_failing_leaves_it_undecided(tmp_path: Path) -> None:
    fails = {place: NonFinite("The loss is nan.") for place in range(1, 13)}
    found = race(bench_of(WORLD, tmp_path, track=Track(WORLD, fails=fails)))
    assert found["verdict"] == "undecided"
    assert len(found["failures"]) == 12
    assert "could be run" in found["sentence"]


def test_a_collapsed_run_tells_nothing_and_two_end_it(tmp_path: Path) -> None:
    first = int(WORLD.prior.gain.argmax())
    once = replace(WORLD, collapses=frozenset({(first, 0)}))
    found = race(bench_of(once, tmp_path / "once"))
    runs = found["candidates"][first]["runs"]
    assert [run["collapsed"] for run in runs][:2] == [True, False]
    assert found["failures"] == []
    twice = replace(WORLD, collapses=frozenset({(first, 0), (first, 1)}))
    found = race(bench_of(twice, tmp_path / "twice"))
    assert [one["id"] for one in found["failures"]] == [WORLD.ids[first]]
    assert "largest class" in found["failures"][0]["sentence"]
    vanilla = replace(WORLD, collapses=frozenset({(0, 0), (0, 1)}))
    with pytest.raises(NotApplicable, match="vanilla"):
        race(bench_of(vanilla, tmp_path / "vanilla"))


def test_a_vanilla_that_collapsed_twice_beside_a_run_that_did_not_goes_on(tmp_path: Path) -> None:
    known = tuple(
        KnownRun(
            checkpoint_id=WORLD.ids[0], seed=seed, validation=run.validation or 0.0,
            curve=tuple({"validation": value} for value in run.curve), collapsed=seed > 0, seconds=50.0,
        )
        for seed in range(3)
        if (run := WORLD.run(0, seed))
    )  # fmt: skip
    bench = bench_of(WORLD, tmp_path)
    found = race(replace(bench, briefing=replace(bench.briefing, known=known)))
    assert found["verdict"] == "start_from"
    assert found["failures"] == []


def test_a_disk_that_is_full_costs_the_file_alone(tmp_path: Path) -> None:
    expected = race(bench_of(WORLD, tmp_path / "whole"))
    (tmp_path / "full").write_text("no folder")
    assert race(bench_of(WORLD, tmp_path / "full")) == expected


def test_the_states_of_finished_runs_make_room(tmp_path: Path) -> None:
    found = race(bench_of(WORLD, tmp_path))
    paused = {
        f"{one['id']}-{run['seed']}"
        for one in found["candidates"]
        for run in one["runs"]
        if not run["finished"]
    }
    assert paused
    assert {path.name for path in tmp_path.iterdir()} == {FILE, *paused}


def test_progress_of_two_is_not_told_to_be_done_after_the_first(tmp_path: Path) -> None:
    bench = bench_of(drawn(5, candidates=1), tmp_path)
    race(bench)
    assert bench.track.fractions[0] == 0.0
    assert 0.3 < bench.track.fractions[1] < 0.7
    spent = bench.track.fractions[1]
    assert bench.track.left[0] is None
    assert bench.track.left[1] == pytest.approx(bench.track.seconds * (1 - spent) / spent, rel=1)


def test_no_more_seconds_are_left_than_the_budget_has(tmp_path: Path) -> None:
    bench = bench_of(WORLD, tmp_path)
    race(bench, budget_seconds=2 * A_RUN)
    assert bench.track.left[0] is None
    assert 0 < max(left for left in bench.track.left[1:] if left is not None) <= A_RUN


def test_one_candidate_races_the_vanilla(tmp_path: Path) -> None:
    world = drawn(5, candidates=1)
    found = race(bench_of(world, tmp_path))
    assert len(found["candidates"]) == 2
    assert found["verdict"] in {"start_from", "stay_with_vanilla"}


def test_nobody_to_race_is_not_applicable(tmp_path: Path) -> None:
    world = drawn(5, candidates=1)
    bench = bench_of(world, tmp_path)
    alone = replace(bench, briefing=Briefing(candidates=bench.briefing.candidates[:1]))
    with pytest.raises(NotApplicable, match="Nobody but the vanilla"):
        race(alone)
    gone = replace(bench, briefing=Briefing(candidates=bench.briefing.candidates[1:]))
    with pytest.raises(CheckpointNotFound, match="vanilla"):
        race(gone)


def test_without_evidence_there_is_a_prior_all_the_same(tmp_path: Path) -> None:
    bench = bench_of(unknown(0), tmp_path)
    found = race(replace(bench, briefing=replace(bench.briefing, prior=None)))
    assert {one["prior_gain"] for one in found["candidates"]} == {0.0}


def test_it_is_listed() -> None:
    assert PROCEDURES["race"].queue == "gpu"
    assert PROCEDURES["race"].needs_rows
    assert LEAST > 0
