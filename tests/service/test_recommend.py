"""POST /recommend end to end: the answer holds what it promises, from published-like evidence."""

from __future__ import annotations

import csv
import io
import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from live_service import Live, serving, settings

from bench.evidence import FAMILY, TARGETS, fill
from headstart.entities import CheckpointDraft, ImportBatch, ImportReport, ScoreDraft, TargetDraft
from headstart.refit import refit_stale
from service.advice_schemas import Advice
from service.snapshot import Snapshot, Snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headstart.store import Store

CHECKPOINTS = 600  # 400 of them finetuned everywhere, 200 probed only


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    store = fill(f"sqlite:///{tmp_path_factory.mktemp('advice')}/store.db", CHECKPOINTS)
    with serving(store, settings()) as service:
        yield service
    store.close()


def ask(live: Live, **question: Any) -> dict[str, Any]:
    response = live.http.post("/recommend", json=question)
    assert response.status_code == 200, response.text
    Advice.model_validate_json(response.content, strict=False)
    answer: dict[str, Any] = response.json()
    return answer


def names(answer: dict[str, Any]) -> list[str]:
    return [c["checkpoint"]["name"] for c in answer["candidates"]]


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"family": FAMILY},
        {"family": FAMILY, "target": {"name": TARGETS[0]}},
        {"family": FAMILY, "target": {"id": 3}},
        {"target": {"task": "nli", "train_size": 900, "classes": 3}},
        {"target": {"task": "nli"}},
        {"target": {}},
        {"limit": 500},
        {"max_parameters": 100_000_000, "licenses": ["MIT"], "exclude": ["author-1/model-1"]},
        {"max_parameters": 1},
    ],
    ids=str,
)
def test_every_way_to_ask(live: Live, question: dict[str, Any]) -> None:
    answer = ask(live, **question)
    gains = [c["expected_gain"] for c in answer["candidates"]]
    assert len(gains) <= question.get("limit", 10)
    if "max_parameters" not in question:
        assert gains[:10] == sorted(gains[:10], reverse=True)
    for candidate in answer["candidates"]:
        low, high = candidate["gain_interval"]
        assert low < candidate["expected_gain"] < high
        assert candidate["checkpoint"]["name"] != FAMILY, "the vanilla is what gains are counted from"


def test_a_known_target_answers_from_its_own_scores(live: Live) -> None:
    answer = ask(live, family=FAMILY, target={"name": TARGETS[0]}, limit=500)
    (family,) = answer["families"]
    assert family["target"] == {
        "id": 1, "name": TARGETS[0], "basis": "own", "stands_on": 400, "probed": CHECKPOINTS,
    }  # fmt: skip
    assert family["vanilla_runs"] == 20
    assert family["vanilla_score"] == pytest.approx(0.6, abs=0.01)
    measured = [c["evidence"]["measured_here"] for c in answer["candidates"]]
    assert 0 < sum(measured) < 500
    finetuned = {c["evidence"]["targets_finetuned"] for c in answer["candidates"]}
    assert finetuned == {0, 36}
    assert all(c["evidence"]["probed"] for c in answer["candidates"])
    assert all(c["evidence"]["age_days"] == 0 for c in answer["candidates"])


def test_a_target_never_seen_rests_on_the_others(live: Live) -> None:
    answer = ask(live, family=FAMILY, target={"train_size": 500})
    assert answer["families"][0]["target"] == {
        "id": None, "name": None, "basis": "others", "stands_on": 36, "probed": 0,
    }  # fmt: skip
    assert all(
        c["evidence"]["measured_here"] == c["evidence"]["probes_here"] == 0 for c in answer["candidates"]
    )


def test_the_size_of_a_described_target_matters(live: Live) -> None:
    small = ask(live, family=FAMILY, target={"train_size": 300})
    large = ask(live, family=FAMILY, target={"train_size": 400_000})
    assert small["candidates"][0]["expected_gain"] != large["candidates"][0]["expected_gain"]


def test_filters_leave_out_what_they_must(live: Live) -> None:
    question: dict[str, Any] = {
        "family": FAMILY,
        "max_parameters": 150_000_000,
        "licenses": ["MIT", "Apache-2.0"],
    }
    answer = ask(live, **question, limit=500)
    assert answer["candidates"]
    for candidate in answer["candidates"]:
        assert candidate["checkpoint"]["parameters"] <= 150_000_000
        assert candidate["checkpoint"]["license"] in {"mit", "apache-2.0"}
    everyone = ask(live, family=FAMILY, limit=500)
    passing = [
        c["checkpoint"]["name"]
        for c in everyone["candidates"]
        if c["checkpoint"]["parameters"] <= 150_000_000
        and c["checkpoint"]["license"] in {"mit", "apache-2.0"}
    ]
    assert names(answer)[: len(passing)] == passing, "a filter removes and never reorders"
    first, *rest = names(answer)
    without = ask(live, **question, limit=500, exclude=[first, "nobody/knows-this"])
    assert names(without) == rest


def test_no_candidate_left_is_an_answer(live: Live) -> None:
    answer = ask(live, licenses=["no-such-licence"])
    assert answer["candidates"] == []
    assert answer["verdict"] == "measure_first"
    assert "filters" in answer["sentence"]
    assert answer["p_worth"] is None


def test_worth_turns_the_verdict(live: Live) -> None:
    target = {"name": TARGETS[0]}
    lenient = ask(live, family=FAMILY, target=target, worth=0.1)
    strict = ask(live, family=FAMILY, target=target, worth=50)
    assert lenient["verdict"] == "start_from"
    assert lenient["sentence"].startswith(f"Start from {names(lenient)[0]}")
    assert strict["verdict"] == "stay_with_vanilla"
    assert strict["p_worth"] < 0.01 < lenient["p_worth"]


@pytest.mark.parametrize(
    ("question", "nearest"),
    [({"family": "synthetic-bose"}, FAMILY), ({"target": {"name": "target-7"}}, "target-07")],
)
def test_an_unknown_name_brings_the_nearest(live: Live, question: dict[str, Any], nearest: str) -> None:
    problem = live.problem("POST", "/recommend", 404, json=question)
    assert nearest in problem["detail"]


def test_an_unknown_target_id(live: Live) -> None:
    assert "987" in live.problem("POST", "/recommend", 404, json={"target": {"id": 987}})["detail"]


def test_two_ways_to_name_a_target_at_once(live: Live) -> None:
    problem = live.problem("POST", "/recommend", 422, json={"target": {"id": 1, "name": TARGETS[0]}})
    assert "one of the three" in json.dumps(problem)


def test_the_answer_is_kept_and_its_etag_holds(live: Live) -> None:
    first = live.http.post("/recommend", json={"family": FAMILY})
    again = live.http.post(
        "/recommend", json={"family": FAMILY}, headers={"If-None-Match": first.headers["etag"]}
    )
    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["etag"] == first.headers["etag"]
    tag = first.headers["etag"]
    for held in ("*", f"W/{tag}", f'"x", {tag}', f'"x",W/{tag} , "y"'):
        response = live.http.post("/recommend", json={"family": FAMILY}, headers={"If-None-Match": held})
        assert response.status_code == 304, held
    for held in ('"x"', f"{tag[:-1]}", f'"{tag}"', '"*"', '"x", *'):
        response = live.http.post("/recommend", json={"family": FAMILY}, headers={"If-None-Match": held})
        assert response.status_code == 200, held
    other = live.http.post("/recommend", json={"family": FAMILY, "limit": 3})
    assert other.headers["etag"] != first.headers["etag"]


def test_the_ranking_in_pages_and_as_csv_agree(live: Live) -> None:
    pages, token = [], None
    while True:
        query = {"page_size": 250} | ({"page_token": token} if token else {})
        page = live.http.get(f"/families/{FAMILY}/ranking", params=query).raise_for_status().json()
        pages += page["items"]
        token = page["next_page_token"]
        if token is None:
            break
    assert [p["rank"] for p in pages] == list(range(1, CHECKPOINTS + 1))
    response = live.http.get(f"/families/{FAMILY}/ranking", params={"format": "csv"})
    assert response.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [r["checkpoint"] for r in rows] == [p["checkpoint"]["name"] for p in pages]
    assert float(rows[0]["expected_gain"]) == pages[0]["expected_gain"]
    assert [p["checkpoint"]["name"] for p in pages[:10]] == names(ask(live, family=FAMILY))


@pytest.mark.parametrize("token", ["x", "999-3", "-", "1-²", "1--1"])
def test_a_ranking_token_that_is_not_ours(live: Live, token: str) -> None:
    live.problem("GET", f"/families/{FAMILY}/ranking", 422, params={"page_token": token})


def test_an_unknown_family_has_no_ranking(live: Live) -> None:
    assert FAMILY in live.problem("GET", "/families/synthetic-bass/ranking", 404)["detail"]


def test_an_empty_store_says_what_to_do(store: Store) -> None:
    with serving(store, settings()) as live:
        answer = ask(live)
        assert answer["candidates"] == []
        assert "import" in answer["sentence"].lower()


def add(store: Store, *scores: ScoreDraft) -> None:
    _finish(
        store,
        ImportBatch(
            checkpoints=tuple(
                CheckpointDraft(family=s.family, name=s.checkpoint, is_vanilla=s.checkpoint == s.family)
                for s in scores
            ),
            targets=(),
            scores=scores,
            report=ImportReport(),
        ),
    )


def add_target(store: Store, target: TargetDraft) -> None:
    _finish(store, ImportBatch(checkpoints=(), targets=(target,), scores=(), report=ImportReport()))


def _finish(store: Store, batch: ImportBatch) -> None:
    made = store.queue_import(store.create_import("table", "upload").id)
    claimed = store.claim_import(60)
    assert claimed is not None
    assert store.finish_import(made.id, claimed.attempt, batch) is not None


def finetune(checkpoint: str, target: str, value: float, seed: int = 0) -> ScoreDraft:
    return ScoreDraft(
        family="base", checkpoint=checkpoint, target=target, method="finetune", value=value, seed=seed
    )


def test_new_evidence_swaps_the_snapshot_and_quarantine_takes_it_back(store: Store) -> None:
    rng = np.random.default_rng(0)
    levels = {"a": 0.7, "b": 0.8, "c": 0.6}
    add(
        store,
        *(finetune("base", t, v + rng.normal(0, 0.003), k) for t, v in levels.items() for k in range(5)),
        *(finetune(f"m{i}", t, v + rng.normal(0, 0.01)) for t, v in levels.items() for i in range(8)),
    )
    refit_stale(store)
    snapshots = Snapshots(store, 60)
    assert snapshots.refresh()
    assert not snapshots.refresh(), "nothing new, nothing swapped"
    before = snapshots.current
    assert before is not None
    add(store, *(finetune("star", t, v + 0.05) for t, v in levels.items()))
    assert refit_stale(store) == 1
    assert refit_stale(store) == 0
    assert snapshots.refresh()
    after = snapshots.current
    assert after is not None
    assert after.evidence_version > before.evidence_version
    board = after.families["base"].board()
    assert after.families["base"].names[board.top(1, board_any())[0].row] == "star"
    for score in store.scores(family="base", page_size=500).items:
        if score.checkpoint == "star":
            store.set_quarantine(score.id, "manual", "a test of taking back")
    refit_stale(store)
    assert snapshots.refresh()
    again = snapshots.current
    assert again is not None
    board = again.families["base"].board()
    assert again.families["base"].names[board.top(1, board_any())[0].row] != "star"


def test_a_target_nobody_has_a_score_on_is_answered_when_it_is_there(store: Store) -> None:
    add(
        store,
        *(finetune("base", t, 0.7, k) for t in "abc" for k in range(3)),
        *(finetune(f"m{i}", t, 0.7 + i / 100) for t in "abc" for i in range(5)),
    )
    refit_stale(store)
    with serving(store, settings()) as live:
        question = {"target": {"name": "tickets"}}
        live.problem("POST", "/recommend", 404, json=question)
        before = live.http.post("/recommend", json={})
        add_target(store, TargetDraft(name="tickets"))
        deadline = time.monotonic() + 10
        while (found := live.http.post("/recommend", json=question)).status_code == 404:
            assert time.monotonic() < deadline, "a target without a score is never answered"
            time.sleep(0.02)
        assert found.json()["families"][0]["target"]["basis"] == "others"
        assert live.http.post("/recommend", json={}).json() == before.json()


def test_targets_are_read_anew_and_families_only_if_they_must(store: Store) -> None:
    add(store, *(finetune(c, "a", 0.7 + n / 50) for n, c in enumerate(("base", "m0", "m1"))))
    refit_stale(store)
    snapshots = Snapshots(store, 60)
    assert snapshots.refresh()
    first = snapshots.current
    add_target(store, TargetDraft(name="x"))
    assert snapshots.refresh()
    second = snapshots.current
    assert first is not None
    assert second is not None
    assert set(second.targets_by_name) == {"a", "x"}
    assert second.families == first.families, "the boards made for them hold"
    add_target(store, TargetDraft(name="x", train_size=500))
    assert snapshots.refresh()
    third = snapshots.current
    assert third is not None
    assert third.targets_by_name["x"].train_size == 500
    assert third.families["base"] is not second.families["base"]
    assert len({one.tag for one in (first, second, third)}) == 3, "an answer to x is another one"
    assert {one.evidence_version for one in (first, second, third)} == {1}
    assert not snapshots.refresh()


def test_a_failure_beside_the_traffic_does_not_end_the_watch(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, *(finetune(c, "a", 0.7 + n / 50) for n, c in enumerate(("base", "m0", "m1"))))
    refit_stale(store)

    def fail(_: Snapshot) -> None:
        raise RuntimeError("a board that cannot be made")

    monkeypatch.setattr(Snapshot, "warm", fail)
    snapshots = Snapshots(store, 0.02)
    snapshots.start()
    try:
        add(store, finetune("m2", "a", 0.75))
        assert refit_stale(store) == 1
        deadline = time.monotonic() + 10
        while snapshots.current is None or snapshots.current.evidence_version < 2:
            assert time.monotonic() < deadline, "the watch ended"
            time.sleep(0.02)
    finally:
        snapshots.stop()


def board_any() -> Any:
    from service.board import ANY

    return ANY


def test_a_target_the_vanilla_was_never_run_on(store: Store) -> None:
    rng = np.random.default_rng(0)
    add(
        store,
        *(finetune("base", t, 0.7, k) for t in "abc" for k in range(3)),
        *(finetune(f"m{i}", t, 0.7 + rng.normal(0, 0.01)) for t in "abcd" for i in range(6)),
    )
    refit_stale(store)
    with serving(store, settings()) as live:
        answer = ask(live, family="base", target={"name": "d"})
    assert answer["families"][0]["target"]["basis"] == "others"
    assert "never finetuned on d" in answer["notes"][0]


def test_what_is_kept_in_memory_has_bounds(live: Live) -> None:
    from service import candidates, outcome
    from service.advice_schemas import MOST

    assert candidates.MOST_ENTRIES >= MOST, "one answer must fit"
    first = names(ask(live, family=FAMILY, limit=500))
    for limit in range(1, 3 * outcome.MOST_KEPT):
        assert names(ask(live, family=FAMILY, limit=limit)) == first[:limit]
    for parameters in range(100_000_000, 400_000_000, 15_000_000):  # more rows than are kept written
        found = ask(live, family=FAMILY, limit=500, max_parameters=parameters)["candidates"]
        assert all(c["checkpoint"]["parameters"] <= parameters for c in found)
