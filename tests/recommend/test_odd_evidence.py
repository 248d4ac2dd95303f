"""Evidence as it should not be: every answer stays finite, honest about its width, and without a warning."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.entities import ScoreDraft
from headstart.evidence.quality import gate
from headstart.recommend import decide
from headstart.recommend.condition import view_of
from headstart.recommend.fit import fit
from headstart.recommend.posterior import from_bytes, to_bytes
from tests.recommend.every_answer import assert_answers_are_sane
from tests.recommend.evidence_of import evidence_of
from tests.recommend.model_world import only, targets_of, with_scores, world_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.recommend.evidence import FamilyEvidence

NAN = np.nan


def normal(*shape: int, times: float = 3.0) -> np.ndarray:
    return times * np.random.default_rng(0).normal(size=shape)


def but(gains: np.ndarray, at: object, value: float) -> np.ndarray:
    changed = gains.copy()
    changed[at] = value  # type: ignore[index]
    return changed


GAINS: dict[str, np.ndarray] = {
    "the vanilla only": np.zeros((0, 3)),
    "no targets": np.zeros((4, 0)),
    "nothing at all": np.zeros((0, 0)),
    "one score": np.ones((1, 1)),
    "never measured": np.full((8, 3), NAN),
    "all scores equal": np.zeros((8, 4)),
    "all gains equal": np.full((8, 4), 3.0),
    "one target": normal(20, 1),
    "two targets": normal(20, 2),
    "one row on a target": but(normal(20, 4), np.s_[1:, 2], NAN),
    "a constant column": but(normal(20, 4), np.s_[:, 2], 0.0),
    "one measured everywhere, the others nowhere": but(np.full((20, 6), NAN), 3, 2.0),
    "one cell each": np.where(np.eye(6) > 0, normal(6, 6), NAN),
    "the same checkpoint twenty times": np.tile(normal(5), (20, 1)),
    "exactly rank one": np.outer(normal(60), np.linspace(0.2, 1, 6)),
    "targets that oppose each other": np.outer(normal(30), [1.0, -1.0]),
    "runs that failed": np.where(normal(40, 5) < -2, -45.0, normal(40, 5)),
    "huge": normal(20, 4, times=1e6),
    "hugest": normal(20, 4, times=1e12),
    "one huge": but(normal(20, 4), (7, 2), 1e9),
    "tiny": normal(20, 4, times=1e-12),
}


@pytest.mark.parametrize("runs", [0, 1, 2, 20])
@pytest.mark.parametrize("name", GAINS)
def test_odd_gains(name: str, runs: int) -> None:
    assert_answers_are_sane(fit(evidence_of(GAINS[name], vanilla_runs=runs)))


@pytest.mark.parametrize("name", GAINS)
def test_odd_gains_beside_a_family_that_is_as_it_should_be(name: str) -> None:
    odd = evidence_of(GAINS[name])
    sound = world_of(targets_of(0, len(odd.target_ids)), 0, checkpoints=40).evidence()
    assert_answers_are_sane(fit(odd, [sound]))
    assert_answers_are_sane(fit(sound, [odd]))


def plain() -> FamilyEvidence:
    return evidence_of(normal(9, 3), probe=np.linspace(0.4, 0.6, 10))


def every(evidence: FamilyEvidence, **columns: float) -> FamilyEvidence:
    return replace(evidence, **{name: np.full(len(evidence.value), one) for name, one in columns.items()})


ODD: dict[str, Callable[[], FamilyEvidence]] = {
    "no vanilla": lambda: replace(plain(), vanilla=None),
    "a vanilla that scores nothing": lambda: evidence_of(np.abs(normal(9, 3)), vanilla_level=0.0),
    "a vanilla that scores all": lambda: evidence_of(
        -np.abs(normal(9, 3)), vanilla_level=1.0, rows_tested=99.0
    ),
    "no test rows": lambda: evidence_of(normal(9, 3), rows_tested=0.0),
    "one test row": lambda: evidence_of(normal(9, 3), rows_tested=1.0),
    "fewer than no test rows": lambda: evidence_of(normal(9, 3), rows_tested=-5.0),
    "no seed noise": lambda: evidence_of(normal(9, 3), seed_noise=1e-12, rows_tested=1e12),
    "exact scores": lambda: every(plain(), stderr=0.0),
    "nearly exact scores": lambda: every(plain(), stderr=1e-300),
    "scores that say nothing": lambda: every(plain(), stderr=1e30),
    "scores that are no numbers": lambda: every(plain(), value=NAN),
    "scores that are infinite": lambda: every(plain(), value=np.inf),
    "duplicates that agree": lambda: with_scores(plain(), 3, 1, np.full(50, 0.72)),
    "duplicates that contradict": lambda: with_scores(plain(), 3, 1, [0.1, 0.99, -5.0]),
    "vanillas that contradict": lambda: with_scores(plain(), 0, 1, [0.1, 0.99, 0.5]),
    "only probes, a thousand": lambda: evidence_of(np.full((1000, 3), NAN), probe=np.linspace(0, 1, 1001)),
    "probes that are all equal": lambda: evidence_of(np.full((30, 3), NAN), probe=np.full(31, 0.3)),
    "a probe of the vanilla only": lambda: evidence_of(normal(9, 3), probe=but(np.full(10, NAN), 0, 0.4)),
    "all of one token": lambda: replace(plain(), checkpoint_names=("base", *["x/base-mnli-distil"] * 9)),
    "no names": lambda: replace(plain(), checkpoint_names=("",) * 10),
    "odd names": lambda: replace(
        plain(), checkpoint_names=("/", "a/", "/b", "é ü", "日本", "a/b/c", " ", "--", "x\n", "\0")
    ),
    "odd metadata": lambda: replace(
        plain(),
        layers=np.where(np.arange(10) < 5, 1e300, 0.0),
        modified=np.where(np.arange(10) < 5, 1e300, 1.0),
        classification=np.ones(10),
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_evidence(name: str) -> None:
    fitted = fit(ODD[name]())
    assert_answers_are_sane(fitted)
    assert to_bytes(from_bytes(to_bytes(fitted))) == to_bytes(fitted)


@settings(max_examples=20, deadline=None)
@given(
    cells=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 2), st.floats(0, 1), st.integers(0, 2)), max_size=25
    ),
    probe=st.lists(st.one_of(st.just(NAN), st.floats(-1, 2)), min_size=6, max_size=6),
)
def test_any_scores(cells: list[tuple[int, int, float, int]], probe: list[float]) -> None:
    """Checkpoint 0 is the vanilla; scores may repeat and contradict each other."""
    evidence = evidence_of(np.full((5, 3), NAN), vanilla_runs=0, probe=np.array(probe))
    if cells:
        checkpoint, target, value, seed = zip(*cells, strict=True)
        evidence = with_scores(evidence, checkpoint, target, value, seed=seed)
    assert_answers_are_sane(fit(evidence))


def test_a_thousand_probes_and_no_finetune_are_an_order_and_little_more() -> None:
    fitted = fit(ODD["only probes, a thousand"]())
    order = decide.static_order(fitted)
    assert order[:3].tolist() == [1000, 999, 998]
    found = decide.predict(fitted, view_of(fitted, 0), order[[0, -1]])
    assert found.gain[0] > found.gain[1]
    assert (found.high - found.low > 3).all()


def test_a_percentage_among_fractions_stops_at_the_gates() -> None:
    draft = ScoreDraft(family="f", checkpoint="b", target="t", method="finetune", value=85.0)
    (found,) = gate([draft])
    assert found.quarantine == "out_of_range"


def test_a_percentage_that_passed_all_gates_changes_little_but_its_own_answer() -> None:
    world = world_of(targets_of(0, 6), 0, checkpoints=60)
    seen = np.ones(world.run.shape, dtype=bool)
    seen[4, 2] = False
    sound = world.evidence(seen)
    wrong = with_scores(sound, 5, 2, 85.0)  # 8,430 points over the vanilla
    before, after = fit(sound), fit(wrong)
    assert_answers_are_sane(after)
    rows = np.setdiff1d(np.arange(1, 61), [5])
    for t in range(6):
        one, two = (decide.predict(f, view_of(f, t), rows) for f in (before, after))
        width = np.median(one.high - one.low)
        assert np.quantile(np.abs(one.gain - two.gain), 0.9) < 0.5 * width
        assert np.median(np.abs(one.gain - two.gain)) < 0.1 * width
        assert np.median(two.high - two.low) == pytest.approx(width, rel=0.15)


def test_a_checkpoint_whose_duplicates_contradict_each_other_is_told_less_surely() -> None:
    world = world_of(targets_of(0, 6), 0, checkpoints=60)
    seen = np.ones(world.run.shape, dtype=bool)
    seen[4, 2] = False
    sound = world.evidence(seen)
    width = {}
    for name, values in {"agree": [0.72, 0.72], "contradict": [0.52, 0.92]}.items():
        fitted = fit(with_scores(sound, 5, 2, values))
        found = decide.predict(fitted, view_of(fitted, 2), np.array([5]))
        width[name] = float((found.high - found.low)[0])
    assert width["contradict"] > 1.25 * width["agree"]


def test_a_family_without_a_vanilla_is_fitted_on_nothing() -> None:
    fitted = fit(ODD["no vanilla"]())
    assert fitted.vanilla == -1
    assert np.isnan(fitted.level).all()
    assert not fitted.measured.any()


def test_a_vanilla_that_was_run_elsewhere_is_no_level_here() -> None:
    evidence = plain()
    there = only(evidence, np.flatnonzero((evidence.checkpoint != 0) | (evidence.target == 1)))
    fitted = fit(there)
    assert np.isnan(fitted.level).tolist() == [True, False, True]
    assert fitted.measured.tolist() == [0, 9, 0]
    assert_answers_are_sane(fitted)
