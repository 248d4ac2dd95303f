"""What an answer says beyond the order: P(best), regret, next jobs, explanations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from live_service import Live, serving, settings
from test_recommend import ask, names

from bench.evidence import FAMILY, TARGETS, fill
from headstart.recommend import choice, decide, plan
from headstart.recommend.condition import view_of
from headstart.recommend.contest import JOBS
from headstart.recommend.cost import finetune_cost
from service.board import DEEPER, FEWEST, FIRST
from service.snapshot import Snapshot, Snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headstart.store import Store

KNOWN = {"family": FAMILY, "target": {"name": TARGETS[3]}}
UNSEEN = {"family": FAMILY, "target": {"train_size": 900, "classes": 3}}
QUESTIONS = [KNOWN, UNSEEN, {"family": FAMILY}]
FILTERS: list[dict[str, Any]] = [
    {},
    {"max_parameters": 150_000_000},
    {"licenses": ["mit"], "max_parameters": 250_000_000},
    {"licenses": ["mit"], "max_parameters": 90_000_000},  # too few of the first
    {"exclude": ["author-1/model-1", "nobody/knows-this"]},
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = fill(f"sqlite:///{tmp_path_factory.mktemp('best')}/store.db", 600)
    yield store
    store.close()


@pytest.fixture(scope="module")
def live(filled: Store) -> Iterator[Live]:
    with serving(filled, settings()) as service:
        yield service


@pytest.fixture(scope="module")
def snapshot(filled: Store) -> Snapshot:
    snapshots = Snapshots(filled, 60)
    snapshots.refresh()
    assert snapshots.current is not None
    return snapshots.current


def chances(answer: dict[str, Any]) -> np.ndarray:
    return np.array([c["p_best"] for c in answer["candidates"]])


def drawn(snapshot: Snapshot, question: dict[str, Any], passing: list[str]) -> dict[str, Any]:
    """What is known of these checkpoints together, all of it made anew."""
    family = snapshot.families[FAMILY]
    fitted = family.posterior
    rows = np.array([family.row_of[name] for name in passing])
    if question.get("target", {}).get("name"):
        at = family.target_at[snapshot.targets_by_name[question["target"]["name"]].id]
        view = view_of(fitted, at)
    else:
        asked = question.get("target", {})
        view = family.board(None, asked.get("train_size"), asked.get("classes")).view
    found = decide.predict(fitted, view, rows)
    joint = choice.joint(view, found, float(fitted.calibration[2]))
    name = question.get("target", {}).get("name")
    train_size = 900 if name is None else snapshot.targets_by_name[name].train_size or 0
    seconds = finetune_cost(family.sizes[rows], 4 ** round(np.log(train_size) / np.log(4))).seconds
    values = plan.values_among(plan.lessons(view, joint, found.gain, found.runs_here, seconds))
    return {"draws": choice.draws(view, joint), "gain": found.gain, "values": values}


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_p_best_sums_to_one_whatever_is_asked(
    live: Live, question: dict[str, Any], wanted: dict[str, Any]
) -> None:
    answer = ask(live, **question, **wanted, limit=500)
    assert chances(answer).sum() + answer["p_vanilla_best"] == pytest.approx(1, abs=1e-4)
    assert np.count_nonzero(chances(answer)) <= FIRST
    few = ask(live, **question, **wanted, limit=3)
    assert few["candidates"] == answer["candidates"][:3], "how many are shown changes no number"
    assert few["expected_regret"] == answer["expected_regret"]


@pytest.mark.parametrize("question", [KNOWN, UNSEEN], ids=str)
def test_a_filtered_answer_is_that_of_the_same_draws(
    live: Live, snapshot: Snapshot, question: dict[str, Any]
) -> None:
    everyone = ask(live, **question, limit=FIRST)
    together = drawn(snapshot, question, names(everyone))
    whole = choice.p_best(together["draws"])
    np.testing.assert_allclose(chances(everyone), whole.rows, atol=1e-4)
    assert everyone["expected_regret"] == pytest.approx(choice.regret(together["draws"], 0), abs=1e-3)
    wanted = {"max_parameters": 150_000_000, "exclude": names(everyone)[:1]}
    answer = ask(live, **question, **wanted, limit=FIRST)
    left = set(names(answer))
    at = np.array([k for k, name in enumerate(names(everyone)) if name in left])
    assert FEWEST <= len(at) < FIRST
    expected = choice.p_best(together["draws"], at)
    np.testing.assert_allclose(chances(answer)[: len(at)], expected.rows[at], atol=1e-4)
    assert not chances(answer)[len(at) :].any()
    assert answer["p_vanilla_best"] == pytest.approx(expected.vanilla, abs=1e-4)
    assert answer["expected_regret"] == pytest.approx(choice.regret(together["draws"], at[0], at), abs=1e-3)
    stop = int(at[together["gain"][at].argmax()])
    assert answer["stopping"]["pick"] == names(everyone)[stop] == names(answer)[0]
    assert answer["stopping"]["expected_gain"] == pytest.approx(together["gain"][stop], abs=1e-3)
    assert answer["stopping"]["expected_regret"] == answer["expected_regret"]


def test_where_few_pass_others_are_looked_for_deeper(live: Live) -> None:
    wanted = {"licenses": ["mit"], "max_parameters": 90_000_000}
    front = {*names(ask(live, **KNOWN, limit=FIRST))}
    answer = ask(live, **KNOWN, **wanted, limit=500)
    assert 0 < len(front & {*names(answer)}) < FEWEST < len(answer["candidates"])
    compared = chances(answer)[:DEEPER]
    deeper = [name not in front for name in names(answer)[:DEEPER]]
    assert compared[deeper].sum() > 0
    assert not chances(answer)[DEEPER:].any()


@pytest.mark.parametrize("question", [KNOWN, UNSEEN], ids=str)
@pytest.mark.parametrize("wanted", [{}, {"max_parameters": 150_000_000}], ids=str)
def test_next_jobs_are_those_of_the_plan(
    live: Live, snapshot: Snapshot, question: dict[str, Any], wanted: dict[str, Any]
) -> None:
    answer = ask(live, **question, **wanted, limit=JOBS, next_jobs=20)
    together = drawn(snapshot, question, names(answer))
    cold = question is UNSEEN
    expected = plan.next_jobs(together["values"], 20, finetuned_here=0 if cold else 400)
    jobs = answer["next_jobs"]
    assert {job["checkpoint"] for job in jobs} <= {*names(answer)}
    assert [job["checkpoint"] for job in jobs] == [names(answer)[job.row] for job in expected]
    assert [job["value"] for job in jobs] == pytest.approx([job.value for job in expected], abs=1e-3)
    assert {job["target"] for job in jobs} == {None if cold else TARGETS[3]}
    assert {job["method"] for job in jobs} == {"finetune"}
    for job in jobs:
        assert job["value_per_second"] == pytest.approx(job["value"] / job["seconds"], rel=0.02, abs=1e-7)
    if cold:
        gains = {c["checkpoint"]["name"]: c["expected_gain"] for c in answer["candidates"]}
        order = [gains[job["checkpoint"]] for job in jobs]
        assert order == sorted(order, reverse=True), "by expected gain while nobody was measured"


def test_how_many_jobs_and_for_what(live: Live) -> None:
    assert len(ask(live, **UNSEEN)["next_jobs"]) == 3
    assert len(ask(live, **UNSEEN, next_jobs=7)["next_jobs"]) == 7
    none = ask(live, **UNSEEN, next_jobs=0)
    assert none["next_jobs"] == []
    assert "Next" not in none["sentence"]
    assert ask(live, family=FAMILY)["next_jobs"] == [], "there is no target to run them on"
    small, large = (
        ask(live, family=FAMILY, target={"train_size": rows})["next_jobs"][0] for rows in (1000, 3000)
    )
    assert large["seconds"] - 10 == pytest.approx(3 * (small["seconds"] - 10), rel=0.01)
    assert ask(live, **KNOWN)["seconds_basis"] == "assumed"


@pytest.mark.parametrize("question", [*QUESTIONS, {"target": {"name": TARGETS[0]}}], ids=str)
def test_explanations_add_up(live: Live, question: dict[str, Any]) -> None:
    answer = ask(live, **question, explain=True, limit=40)
    plain = ask(live, **question, limit=40)
    for candidate, other in zip(answer["candidates"], plain["candidates"], strict=True):
        explanation = candidate.pop("explanation")
        assert candidate == other, "nothing else changes, and without it the key is absent"
        parts = [explanation[source] for source in ("target", "prior", "finetunes", "probes", "here")]
        assert sum(parts) == pytest.approx(candidate["expected_gain"], abs=0.004)
        moved = explanation["moved_by"]
        points = [abs(by["points"]) for by in moved]
        assert points == sorted(points, reverse=True)
        assert {by["target"] for by in moved} <= {*TARGETS} - {question.get("target", {}).get("name")}
        assert len(moved) == (5 if candidate["evidence"]["targets_finetuned"] else 0)
    for family in answer["families"]:
        family.pop("explanation")
    assert {**answer, "candidates": 0} == {**plain, "candidates": 0}


def test_nobody_beats_the_pareto_set_and_everyone_else_is_beaten(live: Live) -> None:
    assert ask(live, **KNOWN)["pareto"] is None
    for wanted in ({}, {"licenses": ["mit"]}):
        answer = ask(live, **KNOWN, **wanted, pareto=True, limit=500)
        told = answer["pareto"]
        everyone = {c["checkpoint"]["name"]: c for c in answer["candidates"]}
        front, smallest = [], np.inf
        for name, candidate in everyone.items():  # best first
            if candidate["checkpoint"]["parameters"] < smallest:
                front.append(name)
                smallest = candidate["checkpoint"]["parameters"]
        assert told[: len(front)] == front
        assert len(told) > 2


def test_the_family_is_told_with_its_calibration(live: Live) -> None:
    (family,) = ask(live, **KNOWN)["families"]
    low, high = family["vanilla_score_interval"]
    assert family["vanilla_basis"] == "measured"
    assert low < family["vanilla_score"] < high
    assert family["calibration"]["cells"] == 400 * 36
    assert 0.7 < family["calibration"]["coverage"] < 0.9
    assert family["calibration"]["widening"] == 1
    assert family["best_gain"] == ask(live, **KNOWN)["candidates"][0]["expected_gain"]
    (unseen,) = ask(live, **UNSEEN)["families"]
    assert unseen["vanilla_basis"] == "foretold"
    wide = unseen["vanilla_score_interval"]
    assert wide[1] - wide[0] > 3 * (high - low)


def test_the_ranking_tells_p_best(live: Live) -> None:
    page = live.http.get(f"/families/{FAMILY}/ranking", params={"page_size": 10}).raise_for_status().json()
    static = ask(live, family=FAMILY)
    assert [c["p_best"] for c in page["items"]] == chances(static).tolist()


@pytest.mark.parametrize("wrong", [{"next_jobs": 21}, {"next_jobs": -1}, {"explain": "yes"}, {"pareto": 2}])
def test_what_may_be_asked(live: Live, wrong: dict[str, Any]) -> None:
    live.problem("POST", "/recommend", 422, json=wrong)
