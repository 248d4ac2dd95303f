"""What a person reads: word for word."""

from __future__ import annotations

from typing import Any

import pytest

from headstart.recommend.decide import CERTAIN, Verdict, judge
from headstart.recommend.sentence import (
    ANY_TARGET,
    YOURS,
    chance_in_words,
    drift_in_words,
    duration_in_words,
    job_in_words,
    only_vanilla_in_words,
    points_in_words,
    pooled_in_words,
    rests_on_in_words,
    sentence,
)

NAMES = {"checkpoint": "hub/m", "vanilla": "base", "target": "rte"}
JOB = "finetune hub/n on rte (about 20 minutes)"
WARM = "That rests on 2 finetunes on this target, finetunes on 31 other targets and its linear probe."


def numbers(gain: float, low: float, high: float, p_beats: float, p_worth: float) -> dict[str, Any]:
    found = {"gain": gain, "low": low, "high": high, "p_beats": p_beats, "p_worth": p_worth}
    return NAMES | found | {"worth": 0.5}


@pytest.mark.parametrize(
    ("found", "more", "said"),
    [
        (
            numbers(2.345, 0.62, 4.96, 0.934, 0.88),
            {"rests_on": WARM, "next_job": JOB},
            "Start from hub/m: on rte expect +2.3 points over base (4 times in 5 between +0.6 and "
            "+5.0), where 0.5 would do; it is better than base with probability 0.93. That rests on 2"
            " finetunes on this target, finetunes on 31 other targets and its linear probe. To be "
            "surer: finetune hub/n on rte (about 20 minutes).",
        ),
        (
            numbers(2.345, 0.62, 4.96, 0.999, 0.99),
            {},
            "Start from hub/m: on rte expect +2.3 points over base (4 times in 5 between +0.6 and "
            "+5.0), where 0.5 would do; it is better than base with probability above 0.99.",
        ),
        (
            numbers(-0.03, -0.9, 0.8, 0.48, 0.17),
            {"rests_on": WARM, "next_job": JOB},
            "Stay with base: on rte even the first choice, hub/m, gains more than 0.5 points only "
            "with probability 0.17: expect 0.0 points (4 times in 5 between -0.9 and +0.8). That "
            "rests on 2 finetunes on this target, finetunes on 31 other targets and its linear probe."
            " To be surer: finetune hub/n on rte (about 20 minutes).",
        ),
        (
            numbers(1.2, -0.5, 3.1, 0.71, 0.6),
            {"rests_on": WARM, "next_job": JOB},
            "Measure first: on rte expect +1.2 points from hub/m over base (4 times in 5 between -0.5"
            " and +3.1), but it is better only with probability 0.71, where 0.80 would do. That rests"
            " on 2 finetunes on this target, finetunes on 31 other targets and its linear probe. "
            "Next: finetune hub/n on rte (about 20 minutes).",
        ),
        (
            numbers(0.31, 0.02, 0.6, 0.91, 0.24),
            {},
            "Measure first: on rte expect +0.3 points from hub/m over base (4 times in 5 between 0.0 "
            "and +0.6), but that is less than the 0.5 asked for, which it gains with probability "
            "0.24. Finetune both on rte: the difference also tells how much it reacts to a good "
            "start.",
        ),
        (
            numbers(0.4996, -1.0, 2.0, 0.7999, 0.45),
            {},
            "Measure first: on rte expect +0.4996 points from hub/m over base (4 times in 5 between "
            "-1.0 and +2.0), but that is less than the 0.5 asked for, which it gains with probability"
            " 0.45, and it is better only with probability 0.7999, where 0.80 would do. Finetune both"
            " on rte: the difference also tells how much it reacts to a good start.",
        ),
    ],
)
def test_the_verdict_word_for_word(found: dict[str, Any], more: dict[str, Any], said: str) -> None:
    verdict = judge(found["gain"], found["p_beats"], found["p_worth"], found["worth"])
    assert sentence(verdict, **found, **more) == said
    assert said.count(". ") <= 2


@pytest.mark.parametrize("verdict", Verdict)
def test_the_new_words_may_be_left_out(verdict: Verdict) -> None:
    said = sentence(verdict, **numbers(1.0, -0.5, 2.5, 0.85, 0.6))
    assert said.endswith(".")
    assert "None" not in said


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ((31, 0, True, 0), "That rests on finetunes on 31 other targets and its linear probe."),
        ((1, 1, False, 0), "That rests on 1 finetune on this target and finetunes on 1 other target."),
        ((0, 3, False, 2), "That rests on 3 finetunes on this target and 2 probes on this target."),
        ((0, 0, True, 0), "Nobody has finetuned it: its linear probe and its name speak for it."),
        (
            (0, 0, True, 1),
            "Nobody has finetuned it: 1 probe on this target, its linear probe and its name speak for it.",
        ),
        (
            (0, 0, False, 0),
            "Nobody has finetuned or probed it: only its name and what it is made of speak for it.",
        ),
    ],
)
def test_what_it_rests_on(known: tuple[int, int, bool, int], said: str) -> None:
    finetuned, runs_here, probed, probes_here = known
    assert (
        rests_on_in_words(finetuned=finetuned, runs_here=runs_here, probed=probed, probes_here=probes_here)
        == said
    )


def test_what_is_to_be_done_is_done_on_your_target() -> None:
    found = numbers(1.2, -0.5, 3.1, 0.71, 0.6) | {"target": ANY_TARGET}
    said = sentence(Verdict.MEASURE_FIRST, **found, there=YOURS)
    assert said == (
        "Measure first: on a target like those known expect +1.2 points from hub/m over base (4 times in 5 "
        "between -0.5 and +3.1), but it is better only with probability 0.71, where 0.80 would do. Finetune "
        "both on your target: the difference also tells how much it reacts to a good start."
    )


def test_the_next_job() -> None:
    assert job_in_words("finetune", ["hub/m"], "rte") == "finetune hub/m on rte"
    assert job_in_words("finetune", ["hub/m"], "rte", 70.0, again=True) == (
        "finetune hub/m on rte once more (about 1 minute)"
    )
    assert job_in_words("logme", ["hub/m"], "rte", 20.0) == (
        "probe hub/m with logme on rte (less than a minute)"
    )
    assert job_in_words("knn", ["a", "b", "c"], "your target") == "probe a, b and c with knn on your target"


def test_where_only_vanillas_are_known() -> None:
    assert only_vanilla_in_words(["base"], "rte", "base", 0.7) == (
        "Stay with base: only the vanilla of this family is known. Register checkpoints that were trained "
        "from it (headstart checkpoints add), or import scores of some (headstart import table FILE)."
    )
    two = only_vanilla_in_words(["base", "large"], "rte", "large", 0.8)
    assert two == (
        "Stay with large: only the vanillas base and large are known, and on rte it is expected to score "
        "most (0.800). Register checkpoints that were trained from one (headstart checkpoints add), or "
        "import scores of some (headstart import table FILE)."
    )
    unknown = only_vanilla_in_words(["base", "large"], "rte")
    assert unknown.startswith("Stay with a vanilla: only the vanillas base and large are known. Register")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "less than a minute"),
        (29.9, "less than a minute"),
        (60, "about 1 minute"),
        (1150, "about 19 minutes"),
        (1500, "about 20 minutes"),
        (3500, "about 50 minutes"),
        (3600, "about 1 hour"),
        (7300, "about 2 hours"),
        (47 * 3600, "about 47 hours"),
        (49 * 3600, "about 2 days"),
        (30 * 86400, "about 30 days"),
    ],
)
def test_a_duration(seconds: float, said: str) -> None:
    assert duration_in_words(seconds) == said


@pytest.mark.parametrize(
    ("points", "limit", "said"),
    [
        (0.0, None, "0.0"),
        (-0.04, None, "0.0"),
        (0.04, None, "0.0"),
        (-0.06, None, "-0.1"),
        (12.34, None, "+12.3"),
        (0.46, 0.5, "+0.46"),
        (0.5, 0.5, "+0.5"),
        (0.54, 0.54, "+0.54"),
        (0.499999999, 0.5, "just under +0.5"),
    ],
)
def test_a_gain_stays_on_its_side_of_the_limit(points: float, limit: float | None, said: str) -> None:
    assert points_in_words(points, limit) == said


@pytest.mark.parametrize(
    ("p", "limit", "said"),
    [
        (1.0, None, "above 0.99"),
        (0.9901, None, "above 0.99"),
        (0.0, None, "below 0.01"),
        (0.5, None, "0.50"),
        (0.797, CERTAIN, "0.797"),
        (0.8, CERTAIN, "0.80"),
        (0.7999999, CERTAIN, "just under 0.80"),
    ],
)
def test_a_chance_is_never_certain(p: float, limit: float | None, said: str) -> None:
    assert chance_in_words(p, limit) == said


def test_the_note_of_the_drift_guard() -> None:
    assert drift_in_words(0.8, 412, 1.0) is None
    assert drift_in_words(0.0, 0, 1.0) is None
    assert drift_in_words(0.652, 412, 1.38, "base") == (
        "Of 412 finetunes of base, each foretold without its own score, 65 % fell within their 80 % "
        "interval: all intervals are widened 1.4 times."
    )


def test_the_note_of_pooling() -> None:
    assert pooled_in_words("mine", [], 12) is None
    assert pooled_in_words("mine", ["roberta-base", "bert-base-cased"], 12) == (
        "Only 12 checkpoints of mine were finetuned: how targets react, and what probes and names are"
        " worth, is learnt together with roberta-base and bert-base-cased."
    )
    assert pooled_in_words("mine", ["roberta-base"], 1) == (
        "Only 1 checkpoint of mine was finetuned: how targets react, and what probes and names are "
        "worth, is learnt together with roberta-base."
    )
    assert pooled_in_words("mine", ["roberta-base"], 0) == (
        "No checkpoint of mine was finetuned: how targets react, and what probes and names are worth,"
        " is learnt together with roberta-base."
    )
