"""A race whose process dies in the run of one candidate: that one leaves, and the others race on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from headstart.failures import Killed
from headstart.procedures.race import Race
from headstart.workbench import DEATHS
from tests.race.race_bench import Died, Track, bench_of, race
from tests.race.worlds import drawn

if TYPE_CHECKING:
    from pathlib import Path

WORLD = drawn(1)
FIRST, SECOND = WORLD.prior.gain.argsort()[::-1][:2].tolist()  # the candidates that run after the vanilla


@pytest.fixture(autouse=True)
def killed_processes_write_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    save = Race._save

    def saved(self: Race, running: tuple[int, int] | None = None) -> bool:
        return False if isinstance(sys.exc_info()[1], Died) else save(self, running)

    monkeypatch.setattr(Race, "_save", saved)


def die(folder: Path, place: int) -> None:
    """One attempt that dies in the runs of this candidate, as the worker notes it."""
    with pytest.raises(Died):
        race(bench_of(WORLD, folder, track=Track(WORLD, fails={place: Died()})))
    with (folder / DEATHS).open("a") as file:
        file.write("died\n")


def attempt(folder: Path) -> tuple[dict[str, Any], list[int]]:
    """One that does not die: its result, and who ran."""
    bench = bench_of(WORLD, folder)
    return race(bench), [place for place, _, _ in bench.track.asked]


def test_a_candidate_that_kills_twice_leaves_and_the_others_race_on(tmp_path: Path) -> None:
    die(tmp_path, FIRST)
    die(tmp_path, FIRST)
    found, ran = attempt(tmp_path)
    assert FIRST not in ran
    assert len(ran) > 0
    (failure,) = found["failures"]
    assert (failure["id"], failure["failure"]) == (WORLD.ids[FIRST], "Killed")
    assert "died 2 times" in failure["sentence"]
    assert found["verdict"] in {"start_from", "stay_with_vanilla"}


def test_a_candidate_that_died_once_is_tried_again(tmp_path: Path) -> None:
    die(tmp_path, FIRST)
    found, ran = attempt(tmp_path)
    assert FIRST in ran
    assert found["failures"] == []


def test_deaths_of_two_candidates_are_counted_apart(tmp_path: Path) -> None:
    die(tmp_path, FIRST)
    die(tmp_path, SECOND)
    assert attempt(tmp_path)[0]["failures"] == []


def test_a_death_that_no_run_was_under_way_at_counts_for_nobody(tmp_path: Path) -> None:
    for _ in range(3):
        with (tmp_path / DEATHS).open("a") as file:
            file.write("died\n")
    assert attempt(tmp_path)[0]["failures"] == []


def test_a_worker_that_was_stopped_in_a_run_is_no_death(tmp_path: Path) -> None:
    for _ in range(3):
        with pytest.raises(Died):
            race(bench_of(WORLD, tmp_path, track=Track(WORLD, fails={FIRST: Died()})))
    assert attempt(tmp_path)[0]["failures"] == []


def test_a_vanilla_that_kills_twice_ends_the_race(tmp_path: Path) -> None:
    die(tmp_path, 0)
    die(tmp_path, 0)
    with pytest.raises(Killed, match="vanilla"):
        attempt(tmp_path)
