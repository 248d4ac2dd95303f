"""Odd evidence from an imported file to the answer: honest widths or a sentence, never NaN."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from live_service import serving, settings

from headstart.entities import ImportState
from headstart.evidence.ingest import ImportLimits, run_next
from headstart.refit import refit_stale
from headstart.store import Store, upgrade_schema
from service.advice_schemas import Advice

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from headstart.entities import Import

LIMITS = ImportLimits(roots=(), allow_private=False, max_rows=100_000, max_bytes=1 << 24, lease_seconds=60.0)
TARGETS = ("asked", "b", "c", "d", "e", "f")
OTHERS = TARGETS[1:]
QUESTIONS: dict[str, dict[str, Any]] = {
    "known": {"target": {"name": "asked"}},
    "unseen": {"target": {}},
    "described": {"target": {"task": "nli", "train_size": 900, "classes": 3}},
    "any": {},
}
EVERYTHING = {"explain": True, "next_jobs": 5, "pareto": True, "limit": 500}

Row = dict[str, Any]


class Answered(NamedTuple):
    """What was said of the file, and of each question asked after it."""

    done: Import
    advice: dict[str, dict[str, Any]]


def row(checkpoint: str, target: str, value: float, seed: int = 0, **more: Any) -> Row:
    return {
        "checkpoint": checkpoint, "family": "base", "target": target, "method": "finetune",
        "value": value, "seed": seed,
    } | more  # fmt: skip


def vanilla(targets: tuple[str, ...] = TARGETS, *, level: float = 0.7, noise: float = 0.003) -> list[Row]:
    """Three seeds on each."""
    drawn = level + noise * np.random.default_rng(1).normal(size=(len(targets), 3))
    return [row("base", t, float(drawn[i, k]), k) for i, t in enumerate(targets) for k in range(3)]


def candidates(
    targets: tuple[str, ...] = TARGETS, count: int = 12, *, level: float = 0.7, spread: float = 0.02
) -> list[Row]:
    """One seed of each on each."""
    drawn = level + spread * np.random.default_rng(2).normal(size=(count, len(targets)))
    return [row(f"m{m}", t, float(drawn[m, i])) for m in range(count) for i, t in enumerate(targets)]


def probes(count: int, **more: Any) -> list[Row]:
    values = 0.4 + 0.3 * np.arange(count) / count
    return [row(f"m{m}", "asked", float(values[m]), method="linear_probe", **more) for m in range(count)]


def sound() -> list[Row]:
    return vanilla() + candidates()


def percent(rows: list[Row]) -> list[Row]:
    return [one | {"value": 100 * one["value"]} for one in rows]


CASES: dict[str, Callable[[], list[Row]]] = {
    "nothing odd": sound,
    "one checkpoint, the vanilla": vanilla,
    "one checkpoint, not the vanilla": lambda: candidates(count=1),
    "one run each": lambda: [row("base", "asked", 0.7), row("m0", "asked", 0.75)],
    "no vanilla": candidates,
    "no probe": sound,
    "nothing but probes": lambda: [row("base", "asked", 0.45, method="linear_probe"), *probes(20)],
    "a probe of the vanilla alone": lambda: [row("base", "asked", 0.45, method="linear_probe")],
    "all scores equal": lambda: vanilla(noise=0) + candidates(spread=0),
    "all scores zero": lambda: vanilla(level=0, noise=0) + candidates(level=0, spread=0),
    "all scores one": lambda: vanilla(level=1, noise=0) + candidates(level=1, spread=0),
    "all gains equal": lambda: vanilla() + candidates(level=0.72, spread=0),
    "one target": lambda: vanilla(("asked",)) + candidates(("asked",)) + probes(12),
    "one row on the target": lambda: vanilla() + candidates(OTHERS) + [row("m0", "asked", 0.74)],
    "one row on the target, not even the vanilla": lambda: (
        vanilla(OTHERS) + candidates(OTHERS) + [row("m0", "asked", 0.74)]
    ),
    "one row on the target, the vanilla's": lambda: (
        vanilla(OTHERS) + candidates(OTHERS) + [row("base", "asked", 0.7)]
    ),
    "duplicates that contradict": lambda: (
        sound() + [row("m3", "asked", value, source=str(value)) for value in (0.1, 0.95)]
    ),
    "duplicates that contradict in one source": lambda: [*sound(), row("m3", "asked", 0.99)],
    "a constant column": lambda: (
        vanilla(OTHERS) + vanilla(("asked",), noise=0) + candidates(OTHERS) + candidates(("asked",), spread=0)
    ),
    "percent among fractions": lambda: sound() + [row("m12", t, 74.5) for t in TARGETS],
    "all in percent": lambda: percent(sound()),
    "probes in percent": lambda: sound() + percent(probes(12)),
    "errors of zero": lambda: vanilla() + [one | {"stderr": 0.0} for one in candidates()],
    "errors beyond measure": lambda: (
        vanilla() + [one | {"stderr": 1e300} for one in candidates()] + probes(12, stderr=1e300)
    ),
    "one test row": lambda: [
        one | {"value": float(one["value"] > 0.7), "rows_tested": 1} for one in sound()
    ],
    "huge probes": lambda: (
        sound() + [row(f"m{m}", "asked", (-1.0) ** m * 10.0 ** (30 * m), method="logme") for m in range(9)]
    ),
    "thousands that were probed only": lambda: sound() + probes(3_000),
}  # fmt: skip


def answered(folder: Path, rows: list[Row], family: str | None = "base") -> Answered:
    """Import the rows as a file, fit, and ask everything of this family, or of all."""
    url = f"sqlite:///{folder}/store.db"
    upgrade_schema(url)
    with closing(Store(url)) as store:
        item = store.create_import("table", "upload")
        store.append_upload(item.id, "history.jsonl", "\n".join(map(json.dumps, rows)).encode())
        store.queue_import(item.id)
        assert run_next(store, LIMITS)
        refit_stale(store)
        with serving(store, settings()) as live:
            found = {}
            for name, question in QUESTIONS.items():
                response = live.http.post("/recommend", json={**question, "family": family, **EVERYTHING})
                assert response.status_code == 200, response.text
                Advice.model_validate_json(response.content, strict=False)
                found[name] = json.loads(response.content, parse_constant=_refuse)
        return Answered(store.get_import(item.id), found)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} in an answer")


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Answered]:
    """The answers to a case, made once."""
    known: dict[str, Answered] = {}

    def made(name: str) -> Answered:
        if name not in known:
            known[name] = answered(tmp_path_factory.mktemp("odd"), CASES[name]())
        return known[name]

    return made


def width(candidate: dict[str, Any]) -> float:
    low, high = candidate["gain_interval"]
    return float(high - low)


def by_name(advice: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["checkpoint"]["name"]: one for one in advice["candidates"]}


def widths(advice: dict[str, Any]) -> np.ndarray:
    return np.array([width(one) for one in advice["candidates"]])


# ---------------------------------------------------------------- every answer


@pytest.mark.parametrize("name", CASES)
def test_a_number_stands_where_a_number_is_due(ask: Callable[[str], Answered], name: str) -> None:
    found = ask(name)
    assert found.done.state is ImportState.SUCCEEDED, found.done.error
    for question, advice in found.advice.items():
        assert_sane(advice)
        (family,) = advice["families"]
        assert (family["vanilla_score"] is None) == (family["vanilla_basis"] is None), question
        assert (family["vanilla_score_interval"] is None) == (family["vanilla_basis"] is None)
        assert (family["calibration"]["coverage"] is None) == (family["calibration"]["cells"] == 0)
        if family["vanilla_basis"] == "measured":
            assert family["seed_noise"] > 0
        for candidate in advice["candidates"]:
            assert (candidate["expected_score"] is None) == (family["vanilla_basis"] is None)


def assert_sane(advice: dict[str, Any]) -> None:
    """A sentence, and numbers that agree with each other."""
    found = advice["candidates"]
    assert advice["sentence"].endswith(".")
    for key in ("p_worth", "p_vanilla_best", "expected_regret", "stopping"):
        assert advice[key] is not None or not found, key
    for one in found:
        low, high = one["gain_interval"]
        assert low <= one["expected_gain"] <= high
        assert -100 <= low < high <= 100
        assert one["expected_score"] is None or 0 <= one["expected_score"] <= 1
        parts = {key: value for key, value in one["explanation"].items() if key != "moved_by"}
        assert sum(parts.values()) == pytest.approx(one["expected_gain"], abs=0.003)
    if found:
        chances = sum(one["p_best"] for one in found) + advice["p_vanilla_best"]
        assert chances == pytest.approx(1, abs=1e-4 * len(found))
        assert advice["expected_regret"] >= 0
        assert set(advice["pareto"]) <= by_name(advice).keys()


def test_odd_families_beside_each_other(tmp_path: Path) -> None:
    """All cases as families of one store, asked together: each leans on all others."""
    rows = []
    for family, made in CASES.items():
        for one in made() if not family.startswith("thousands") else ():
            own = family if one["checkpoint"] == "base" else f"{family}/{one['checkpoint']}"
            rows.append(one | {"family": family, "checkpoint": own})
    found = answered(tmp_path, rows, family=None)
    assert found.done.state is ImportState.SUCCEEDED, found.done.error
    for advice in found.advice.values():
        assert len(advice["families"]) == len(CASES) - 1
        assert_sane(advice)


# ---------------------------------------------------------------- honest widths, case by case


def test_without_a_candidate_there_is_nothing_to_choose(ask: Callable[[str], Answered]) -> None:
    for name in ("one checkpoint, the vanilla", "a probe of the vanilla alone"):
        for advice in ask(name).advice.values():
            assert advice["candidates"] == advice["next_jobs"] == advice["pareto"] == []
            assert advice["verdict"] != "start_from"


@pytest.mark.parametrize(
    "name",
    ["one checkpoint, not the vanilla", "no vanilla", "nothing but probes", "all in percent"],
)
def test_what_nothing_is_known_of_is_told_with_several_points_of_doubt(
    ask: Callable[[str], Answered], name: str
) -> None:
    for advice in ask(name).advice.values():
        assert widths(advice).min() > 5
        assert advice["verdict"] == "measure_first"
        assert advice["families"][0]["target"]["basis"] == "prior"
        assert any("none was finetuned" in note or "No checkpoint" in note for note in advice["notes"])
    assert any("vanilla of base was never finetuned" in n for n in ask(name).advice["known"]["notes"])


def test_one_run_each_says_little_of_the_gain_and_less_of_another_target(
    ask: Callable[[str], Answered],
) -> None:
    (here,) = ask("one run each").advice["known"]["candidates"]
    (elsewhere,) = ask("one run each").advice["unseen"]["candidates"]
    assert here["gain_interval"][0] < 5 < here["gain_interval"][1]
    assert 4 < width(here) < width(elsewhere)
    assert 0.5 < elsewhere["p_beats_vanilla"] < 0.8 < here["p_beats_vanilla"]


@pytest.mark.parametrize("level", ["equal", "zero", "one"])
def test_scores_that_are_all_equal_gain_nothing(ask: Callable[[str], Answered], level: str) -> None:
    for advice in ask(f"all scores {level}").advice.values():
        assert advice["verdict"] == "stay_with_vanilla"
        for one in advice["candidates"]:
            assert abs(one["expected_gain"]) < 0.05
            assert one["gain_interval"][0] <= 0 <= one["gain_interval"][1]


def test_one_target_is_no_proof_for_another(ask: Callable[[str], Answered]) -> None:
    known, unseen = (ask("one target").advice[name] for name in ("known", "unseen"))
    assert np.median(widths(unseen)) > 1.5 * np.median(widths(known))
    gains = [np.array([one["expected_gain"] for one in by.values()]) for by in map(by_name, (known, unseen))]
    assert np.ptp(gains[1]) < 0.7 * np.ptp(gains[0])


def test_one_row_on_a_target_tells_of_its_checkpoint_and_hardly_of_the_others(
    ask: Callable[[str], Answered],
) -> None:
    found = by_name(ask("one row on the target").advice["known"])
    own, others = found.pop("m0"), widths({"candidates": list(found.values())})
    assert own["gain_interval"][0] < 4 < own["gain_interval"][1]
    assert 1 < width(own) < 0.7 * np.median(others)
    assert all(one["evidence"]["measured_here"] == 0 for one in found.values())


def test_one_row_on_a_target_that_the_vanilla_never_ran_counts_for_nothing(
    ask: Callable[[str], Answered],
) -> None:
    advice = ask("one row on the target, not even the vanilla").advice["known"]
    assert advice["families"][0]["target"]["basis"] == "others"
    assert advice["families"][0]["vanilla_basis"] == "foretold"
    assert np.median(widths(advice)) > 3
    lone = ask("one row on the target, the vanilla's").advice["known"]
    assert lone["families"][0]["vanilla_basis"] == "measured"
    low, high = lone["families"][0]["vanilla_score_interval"]
    assert low < 0.7 < high
    assert np.median(widths(lone)) > 3


def test_contradictions_widen_and_the_other_answers_stay(ask: Callable[[str], Answered]) -> None:
    before = by_name(ask("nothing odd").advice["known"])
    after = by_name(ask("duplicates that contradict").advice["known"])
    assert width(after["m3"]) > 2 * width(before["m3"])
    assert after["m3"]["evidence"]["measured_here"] == 1, "one seed, however often"
    shifts = [after[m]["expected_gain"] - before[m]["expected_gain"] for m in before if m != "m3"]
    assert np.abs(shifts).max() < 0.5 * np.median([width(one) for one in before.values()])
    one_source = ask("duplicates that contradict in one source")
    assert one_source.done.report is not None
    assert one_source.done.report.scores_quarantined == {"contradicts": 1}
    assert by_name(one_source.advice["known"]) == before


def test_a_constant_column_gains_nothing_and_is_not_exact(ask: Callable[[str], Answered]) -> None:
    found = ask("a constant column").advice
    assert found["known"]["verdict"] == "stay_with_vanilla"
    for one in found["known"]["candidates"]:
        assert one["gain_interval"][0] < 0 < one["gain_interval"][1]
    low, high = found["known"]["families"][0]["vanilla_score_interval"]
    assert 100 * (high - low) > 0.05, "seeds differ on other targets"
    assert widths(found["known"]).min() > 100 * (high - low), "nor is a gain known better than its level"
    assert np.median(widths(found["unseen"])) > 2 * np.median(widths(found["known"]))


def test_percent_among_fractions_stops_at_the_gates(ask: Callable[[str], Answered]) -> None:
    before, after = ask("nothing odd"), ask("percent among fractions")
    assert after.done.report is not None
    assert after.done.report.scores_quarantined == {"out_of_range": len(TARGETS)}
    for name, advice in after.advice.items():
        found, expected = by_name(advice), by_name(before.advice[name])
        newcomer = found.pop("m12")
        assert newcomer["evidence"]["targets_finetuned"] == 0
        for key in ("expected_gain", "gain_interval", "p_beats_vanilla"):
            assert {m: one[key] for m, one in found.items()} == {m: one[key] for m, one in expected.items()}
    everything = ask("all in percent").done
    assert everything.report is not None
    assert everything.report.scores_quarantined == {"out_of_range": len(sound())}
    for name, advice in ask("probes in percent").advice.items():
        assert by_name(advice) == by_name(before.advice[name])


def test_errors_that_are_told_make_wide_and_narrow(ask: Callable[[str], Answered]) -> None:
    exact, usual, vague = (
        np.median(widths(ask(name).advice["known"]))
        for name in ("errors of zero", "nothing odd", "errors beyond measure")
    )
    assert 0.2 < exact < usual < vague


def test_thousands_of_probes_are_an_order_among_what_was_not_measured(ask: Callable[[str], Answered]) -> None:
    found = ask("thousands that were probed only").advice
    for advice in found.values():
        assert len(advice["candidates"]) == EVERYTHING["limit"]
        finetuned = np.array([one["evidence"]["targets_finetuned"] > 0 for one in advice["candidates"]])
        wide = widths(advice)
        assert wide[~finetuned].min() > 2
    measured = [one for one in found["known"]["candidates"] if one["evidence"]["measured_here"]]
    assert measured
    assert np.median([width(one) for one in measured]) < 0.5 * np.median(widths(found["known"]))
