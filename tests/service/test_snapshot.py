"""What is kept in memory for answers: what it may be used for again, how much of it, and until when."""

from __future__ import annotations

import json
import time
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from live_service import serving, settings
from test_recommend import _finish, add, ask, finetune, names

from bench.evidence import FAMILY, TARGETS, fill
from headstart.entities import CheckpointDraft, ImportBatch, ImportReport
from headstart.refit import refit_stale
from service import kept, snapshot
from service.advice import answer
from service.advice_schemas import Question
from service.board import DEEPER, FEWEST, FIRST, Filter
from service.kept import Recent, Shelf
from service.outcome import Outcome
from service.passing import Passing, positions
from service.snapshot import Snapshot, Snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headstart.store import Store


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = fill(f"sqlite:///{tmp_path_factory.mktemp('snapshot')}/store.db", 600)
    yield store
    store.close()


def fresh(store: Store) -> Snapshot:
    snapshots = Snapshots(store, 60)
    snapshots.refresh()
    assert snapshots.current is not None
    return snapshots.current


def told(current: Snapshot, question: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps(question).encode()
    found: dict[str, Any] = json.loads(answer(current, Question.model_validate_json(body), body)[0])
    return found


def filters(rng: np.random.Generator, everyone: list[str]) -> dict[str, Any]:
    """Some filter, tight ones among them."""
    found: dict[str, Any] = {}
    if rng.random() < 0.5:
        found["max_parameters"] = int(rng.choice([60e6, 100e6, 101e6, 130e6, 200e6, 399e6]))
    if rng.random() < 0.4:
        found["licenses"] = rng.choice(["MIT", "apache-2.0", "nobody-s"], size=2, replace=False).tolist()
    if rng.random() < 0.4:
        found["exclude"] = [*rng.choice(everyone, size=3).tolist(), "nobody/knows-this"]
    return found


def test_an_answer_is_the_same_whatever_was_asked_before(filled: Store) -> None:
    rng, busy = np.random.default_rng(0), fresh(filled)
    everyone = [busy.families[FAMILY].names[row] for row in busy.families[FAMILY].order[:150]]
    questions = []
    for _ in range(150):
        target: dict[str, Any] = {"target": {"name": str(rng.choice(TARGETS[:3]))}}
        question = filters(rng, everyone) | (target if rng.random() < 0.8 else {})
        question |= {"limit": int(rng.choice([1, 10, 140]))} if rng.random() < 0.3 else {}
        question |= {"pareto": True} if rng.random() < 0.3 else {}
        question |= {"worth": 1.5} if rng.random() < 0.3 else {}
        questions.append(question)
    answers = [told(busy, question) for question in questions]
    for k in range(0, len(questions), 5):
        alone = told(fresh(filled), questions[k])
        for one in (*alone["candidates"], *answers[k]["candidates"]):
            del one["gain_interval"]  # below the first it hangs in the last digit on who is asked along
        assert answers[k] == alone, questions[k]


def test_filters_that_leave_the_same_candidates_are_one_contest(filled: Store) -> None:
    current = fresh(filled)
    target = current.targets_by_name[TARGETS[0]]
    board = current.families[FAMILY].board(target)
    sizes = sorted(entry.json for entry in board.top(FIRST, Filter()))
    assert len(sizes) == FIRST
    parameters = sorted(json.loads(one + b"}")["checkpoint"]["parameters"] for one in sizes)
    between = (parameters[60] + parameters[61]) // 2
    same = [parameters[60], between, parameters[61] - 1]
    entrants = {board.entrants(Filter(one)) for one in same}
    assert len(entrants) == 1
    assert entrants.pop().number == 61
    assert board.entrants(Filter(parameters[61])).number == 62
    assert board.entrants(Filter(licenses=("MIT",))) == board.entrants(Filter(licenses=("mit", "x", "mit")))
    assert board.entrants(Filter(exclude=("nobody/knows-this",))) == board.entrants(Filter())
    tight = board.entrants(Filter(parameters[FEWEST - 2]))
    assert isinstance(tight.who, bytes)
    assert tight.number == DEEPER
    (side,) = Outcome([board], [tight]).sides
    assert side.outlook.draws.base is None
    assert side.outlook.draws.size == 0, "draws of its own go once the contest is over"
    for one in same:
        told(current, {"family": FAMILY, "target": {"name": TARGETS[0]}, "max_parameters": one})
    assert len(current.shelf.filtered.items()) == 1


def test_a_question_in_other_words_is_the_same_question(filled: Store) -> None:
    current = fresh(filled)
    target = current.targets_by_name[TARGETS[4]]
    first: dict[str, Any] = {
        "family": FAMILY,
        "target": {"name": target.name},
        "licenses": ["mit", "Apache-2.0"],
        "exclude": ["author-1/model-1", "author-2/model-2"],
    }
    others = [
        first | {"target": {"id": target.id}},
        first | {"licenses": ["apache-2.0", "MIT", "mit"]},
        first
        | {"exclude": ["author-2/model-2", "nobody/knows-this", "author-1/model-1", "author-1/model-1"]},
        first | {"limit": 10, "worth": 0.5, "explain": False, "next_jobs": 3},
    ]
    expected = told(current, first)
    assert len(current.written.items()) == 1
    assert [told(current, other) for other in others] == [expected] * 4
    assert len(current.written.items()) == 1
    different = [
        first | {"limit": 9}, first | {"worth": 0.6}, first | {"explain": True}, first | {"next_jobs": 2},
        first | {"pareto": True}, first | {"max_parameters": 10**9}, first | {"licenses": ["mit"]},
        first | {"exclude": []}, first | {"target": {"name": TARGETS[5]}}, first | {"target": {}},
        first | {"target": {"task": "x"}}, first | {"target": {"classes": 2}}, first | {"target": None},
        {key: first[key] for key in first if key != "family"},
    ]  # fmt: skip
    for other in different:
        told(current, other)
    assert len(current.written.items()) == 1 + len(different)


def test_a_snapshot_that_answered_is_forgotten_once_it_is_replaced(store: Store) -> None:
    runs = [finetune(c, t, 0.7 + n / 50) for t in "ab" for n, c in enumerate(("base", "m0", "m1"))]
    add(store, *runs)
    refit_stale(store)
    snapshots = Snapshots(store, 60)
    snapshots.refresh()
    assert snapshots.current is not None
    snapshots.current.warm()
    for question in ({}, {"target": {"name": "a"}}, {"target": {"train_size": 900}}):
        for more in (
            {},
            {"exclude": ["m0"]},
            {"explain": True, "pareto": True, "next_jobs": 9},
            {"limit": 99},
        ):
            told(snapshots.current, question | more)
    held: list[Any] = [snapshots.current.families["base"]]
    held += [board for _, board in snapshots.current.shelf._boards.items()]
    gone = [weakref.ref(one) for one in held]
    assert len(gone) > 4
    del held
    add(store, finetune("m2", "a", 0.8))
    refit_stale(store)
    snapshots.refresh()
    assert {one() for one in gone} == {None}, "what is frozen for the collector has to go by itself"


def test_whether_the_vanilla_passes_is_part_of_the_contest(filled: Store) -> None:
    current = fresh(filled)
    family = current.families[FAMILY]
    board = family.board(current.targets_by_name[TARGETS[0]])
    size = family.parameters[family.posterior.vanilla]
    assert size is not None
    for wanted, passes in (
        (Filter(), True),
        (Filter(size), True),
        (Filter(size - 1), False),
        (Filter(licenses=("mit",)), False),  # nobody knows its licence
        (Filter(exclude=(FAMILY,)), False),
        (Filter(1), False),
    ):
        entrants = board.entrants(wanted)
        assert entrants.vanilla is passes, wanted
        assert board.side(entrants).vanilla is passes


def test_bits_are_whom_a_filter_lets_pass() -> None:
    rng = np.random.default_rng(0)
    sizes = np.where(rng.random(100) < 0.2, np.nan, rng.integers(1, 50, size=100).astype(float))
    licenses = rng.choice(np.array([None, "mit", "MIT", "GPL"]), size=100).tolist()
    passing = Passing(sizes, licenses, {f"n{k}": k for k in range(100)})
    for _ in range(200):
        most = None if rng.random() < 0.3 else int(rng.integers(0, 60))
        some = rng.choice(["Mit", "gpl", "x"], size=rng.integers(0, 3)).tolist()
        exclude = rng.choice([f"n{k}" for k in range(120)], size=rng.integers(0, 9)).tolist()
        expected = [
            k
            for k in range(100)
            if (most is None or sizes[k] <= most)
            and (not some or (licenses[k] or "?").casefold() in {one.casefold() for one in some})
            and f"n{k}" not in exclude
        ]
        bits = passing.bits(most, some, exclude)
        assert positions(bits).tolist() == expected
    assert passing.bits(None, (), ()) == passing.everyone
    assert positions(0).tolist() == []


def test_the_last_used_are_kept() -> None:
    recent: Recent[str] = Recent(2)
    made: list[str] = []

    def get(key: str) -> str:
        return recent.get(key, lambda: made.append(key) or key.upper())  # type: ignore[func-returns-value]

    assert [get(key) for key in "abacab"] == [*"ABACAB"]
    assert "".join(made) == "abcb"
    assert [key for key, _ in recent.items()] == ["a", "b"]


def test_boards_are_kept_within_what_memory_is_given(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one = fresh(filled).families[FAMILY].board()
    monkeypatch.setattr(kept, "MOST_BYTES", int(3.5 * one.bytes))
    monkeypatch.setattr(snapshot, "Shelf", lambda: Shelf(kept.MOST_BYTES))
    current = fresh(filled)
    questions: list[dict[str, Any]] = [
        {"family": FAMILY, "target": {"train_size": 4**k, "classes": 2}} for k in range(4, 10)
    ]
    questions += [question | {"max_parameters": 200_000_000} for question in questions]
    first = [told(current, question) for question in questions]
    shelf = current.shelf
    assert 2 * one.bytes < shelf.bytes <= kept.MOST_BYTES
    current.answers.clear()
    assert [told(current, question) for question in questions] == first, "made anew, it is the same"
    boards = {board for _, board in shelf._boards.items()}
    for recent in (shelf.across, shelf.filtered, shelf.prospects):
        held = {board for (over, _), _ in recent.items() for board in over}
        assert held <= boards, "what stood on a board went with it"
    current.warm()
    assert shelf.bytes <= kept.MOST_BYTES


def test_what_a_board_weighs_is_what_its_arrays_take(filled: Store) -> None:
    board = fresh(filled).families[FAMILY].board(None, 1_000, 3)
    drawn = FIRST * 512 * 4
    assert drawn < board.bytes < 3 * drawn
    before = board.bytes
    board.top(100, Filter())
    assert board.bytes > before + 30_000, "candidates weigh once they are written"


def test_ages_are_those_of_the_day_that_the_etag_names(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = Snapshots(filled, 60)
    snapshots.refresh()
    today = snapshots.current
    assert today is not None
    question = {"family": FAMILY, "limit": 1}
    assert told(today, question)["candidates"][0]["evidence"]["age_days"] == 0
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3 * 86_400)
    assert told(today, {**question, "limit": 2})["candidates"][1]["evidence"]["age_days"] == 0, "of its day"
    assert snapshots.refresh()
    later = snapshots.current
    assert later is not None
    assert later.tag != today.tag
    assert told(later, question)["candidates"][0]["evidence"]["age_days"] == 3


def test_what_is_learnt_of_a_checkpoint_is_in_the_next_answer(store: Store) -> None:
    add(
        store,
        *(finetune("base", t, 0.7, k) for t in "ab" for k in range(3)),
        *(finetune(f"m{i}", t, 0.7 + i / 100) for t in "ab" for i in range(5)),
    )
    refit_stale(store)
    small = {"max_parameters": 100}
    with serving(store, settings()) as live:
        before = live.http.post("/recommend", json=small)
        assert before.json()["candidates"] == []
        known = CheckpointDraft(family="base", name="m2", parameters=90, license="mit")
        new = CheckpointDraft(family="base", name="nobody/measured", parameters=80)
        _finish(store, ImportBatch(checkpoints=(known, new), targets=(), scores=(), report=ImportReport()))
        assert refit_stale(store) == 1
        deadline = time.monotonic() + 10
        while (after := live.http.post("/recommend", json=small)).headers["etag"] == before.headers["etag"]:
            assert time.monotonic() < deadline, "the old answer stands"
            time.sleep(0.02)
        assert sorted(names(after.json())) == ["m2", "nobody/measured"]
        assert names(ask(live, licenses=["MIT"])) == ["m2"]
