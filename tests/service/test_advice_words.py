"""What an answer says in words, and its tables: the verdict, the target, what to measure next."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from live_service import Live, serving, settings
from test_recommend import add, ask
from test_several_families import of, scores_on

from bench.evidence import FAMILY, TARGETS, fill
from headstart.refit import refit_stale
from service.advice_tables import show_advice
from service.outcome import Job
from service.verdict import proposals_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headstart.store import Store


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    store = fill(f"sqlite:///{tmp_path_factory.mktemp('words')}/store.db", 200)
    with serving(store, settings()) as service:
        yield service
    store.close()


@pytest.mark.parametrize("target", [None, {}, {"task": "nli"}], ids=str)
def test_a_target_of_which_nothing_is_told_is_like_those_known(
    live: Live, target: dict[str, Any] | None
) -> None:
    said = ask(live, family=FAMILY, target=target)["sentence"]
    assert "on a target like those known expect" in said
    assert "described" not in said
    assert "(about" not in said, "nobody knows how many rows it has"
    assert "minute" not in said


def test_the_task_is_said_to_be_no_guide(live: Live) -> None:
    told, plain = (ask(live, family=FAMILY, target=one) for one in ({"task": "nli"}, {}))
    assert [note for note in told["notes"] if note not in plain["notes"]] == [
        "The task does not change the answer: in the published results targets of one task were no better "
        "guides to each other than any others."
    ]
    assert told["sentence"] == plain["sentence"]


def test_who_starts_is_told_to_finetune_another_and_where(live: Live) -> None:
    answer = ask(live, family=FAMILY, target={"train_size": 9000}, worth=0.1)
    assert answer["verdict"] == "start_from"
    first, second = (job["checkpoint"] for job in answer["next_jobs"][:2])
    assert first == answer["candidates"][0]["checkpoint"]["name"]
    assert answer["sentence"].startswith(f"Start from {first}: on a target as described expect")
    assert f"To be surer: finetune {second} on your target (" in answer["sentence"]
    alone = ask(live, family=FAMILY, target={"train_size": 9000}, worth=0.1, next_jobs=1)
    assert "To be surer" not in alone["sentence"], "starting from it is that job"
    more = answer["candidates"][0]["expected_gain"] + 0.2
    unsure = ask(live, family=FAMILY, target={"train_size": 9000}, worth=more)
    assert unsure["verdict"] == "measure_first"
    assert "Finetune both on your target: the difference also tells" in unsure["sentence"]


def job(checkpoint: str, method: str = "finetune", family: str = "base", runs: int = 0) -> Job:
    return Job(checkpoint, family, method, runs, 70.0, b"")


def test_probes_that_tell_only_together_are_proposed_together() -> None:
    jobs = (job("a", "knn"), job("b", "knn"), job("c"), job("d", "knn"), job("e", "knn"))
    probes, finetune = proposals_of(jobs, "rte", timed=True)
    assert probes == ("probe a, b and d with knn on rte (about 4 minutes)", None)
    assert finetune == ("finetune c on rte (about 1 minute)", "c")
    others = proposals_of((job("a", "knn"), job("b", "knn", "other")), "rte", timed=False)
    assert [one.said for one in others] == ["probe a with knn on rte", "probe b with knn on rte"]
    assert proposals_of((job("a", runs=2),), "rte", timed=False) == (("finetune a on rte once more", None),)
    assert proposals_of((), "rte", timed=True) == ()


def test_the_verdict_is_over_the_best_vanilla_of_all_families(store: Store) -> None:
    good = [
        replace(one, value=min(one.value + 0.05, 1.0)) if one.checkpoint == "m0" else one
        for one in scores_on({"a": 0.7, "b": 0.6, "c": 0.65}, 8)
    ]
    add(store, *of("small", *good), *of("large", *scores_on({"a": 0.8, "b": 0.7, "c": 0.74}, 0, seed=1)))
    refit_stale(store)
    with serving(store, settings()) as live:
        alone = ask(live, family="small", target={"name": "a"})
        both = ask(live, target={"name": "a"})
        filtered = ask(live, target={"name": "a"}, exclude=["large"])
        vanilla = ask(live, family="large", target={"name": "a"})
    first = alone["candidates"][0]
    assert alone["verdict"] == "start_from"
    assert both["candidates"][0]["expected_score"] == first["expected_score"] < 0.8
    assert both["verdict"] == "stay_with_vanilla"
    assert both["sentence"].startswith(
        "Stay with large: on a even the first choice, small-m0, gains more than 0.5"
    )
    assert both["p_worth"] < 0.2 < alone["p_worth"]
    assert both["p_vanilla_best"] > 0.8
    assert (both["stopping"]["pick"], both["stopping"]["family"]) == (None, "large")
    assert "Start from small-m0" in filtered["sentence"], "a vanilla that is excluded is no yardstick"
    assert vanilla["sentence"].startswith(
        "Stay with large: only the vanilla of this family is known. Register"
    )
    assert vanilla["stopping"]["family"] == "large"


def test_only_vanillas(store: Store) -> None:
    add(store, *of("one", *scores_on({"a": 0.7}, 0)), *of("two", *scores_on({"a": 0.8}, 0, seed=1)))
    refit_stale(store)
    with serving(store, settings()) as live:
        answer = ask(live, target={"name": "a"}, explain=True, pareto=True, next_jobs=5)
        gone = ask(live, family="one", max_parameters=1)
    assert answer["sentence"].startswith(
        "Stay with two: only the vanillas one and two are known, and on a it is expected to score most (0.80"
    )
    assert answer["verdict"] == "stay_with_vanilla"
    assert (answer["candidates"], answer["pareto"], answer["next_jobs"]) == ([], [], [])
    assert (answer["p_vanilla_best"], answer["expected_regret"]) == (1, None)
    assert answer["stopping"]["family"] == "two"
    assert answer["stopping"]["expected_regret"] == pytest.approx(0, abs=0.01)
    assert "only the vanilla of this family" in gone["sentence"], "no filter is to blame"


def test_with_explain_a_family_tells_how_much_of_a_spread_is_noise(live: Live) -> None:
    for target in ({"name": TARGETS[3]}, {"train_size": 900}):
        (plain,) = ask(live, family=FAMILY, target=target)["families"]
        (told,) = ask(live, family=FAMILY, target=target, explain=True)["families"]
        found = told.pop("explanation")
        assert told == plain, "nothing else changes, and without it the key is absent"
        assert found["sensitivity"] == plain["sensitivity"]
        assert 0 < found["sensitivity"] < found["apparent_spread"]
        assert 0 < found["noise_share"] < 1 - found["quality_share"] < 1


def test_the_tables(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask(live, family=FAMILY, target={"name": TARGETS[3]}, explain=True)
    show_advice(answer)
    said = " ".join(capsys.readouterr().out.split())
    (family,) = answer["families"]
    assert f"a standard deviation of quality is worth {family['sensitivity']:.2f} points here" in said
    assert f"{100 * family['explanation']['noise_share']:.0f} % seed noise" in said
    first = answer["candidates"][0]
    chance = 100 * first["p_best"]
    assert f" {chance:.1f} % " in said, "P(best) of many is small: a digit more"
    assert f"Stopping now gives {first['expected_gain']:+.2f} points by {first['checkpoint']['name']}" in said
