"""Each gate catches what it is for, and leaves the rest alone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.entities import ScoreDraft
from headstart.evidence.quality import (
    REASONS,
    collapsed,
    decimals,
    gate,
    infer_rows_tested,
    majority_levels,
    on_grid,
)


def score(checkpoint: str, target: str, value: float, **more: object) -> ScoreDraft:
    made = ScoreDraft(family="base", checkpoint=checkpoint, target=target, method="finetune", value=value)
    return replace(made, **more)


def column(target: str, rows: int, count: int, level: float = 0.8, seed: int = 0) -> list[ScoreDraft]:
    """One score each of several checkpoints, on the grid of a test split of `rows`."""
    rng = np.random.default_rng(seed)
    values = np.round((level + rng.uniform(-0.03, 0.03, count)) * rows) / rows
    return [score(f"m{i}", target, float(v)) for i, v in enumerate(values)]


def reasons(scores: tuple[ScoreDraft, ...]) -> list[str | None]:
    return [s.quarantine for s in scores]


@pytest.mark.parametrize("rows", [56, 104, 277, 1043, 9824, 12284, 50000])
def test_the_test_size_follows_from_a_few_scores(rows: int) -> None:
    rng = np.random.default_rng(rows)
    values = rng.integers(rows // 2, rows, size=20) / rows
    assert infer_rows_tested(values, exact=True) == rows


def test_no_test_size_from_rounded_few_or_real_values() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(100, 277, size=20) / 277
    assert infer_rows_tested(np.round(counts, 4), exact=False) is None
    assert infer_rows_tested(counts[:3], exact=True) is None
    assert infer_rows_tested(rng.random(20), exact=True) is None  # a correlation lies on no grid


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), st.integers(2, 6))
def test_a_count_is_on_its_grid_however_it_was_rounded(count: tuple[int, int], digits: int) -> None:
    rows, right = count
    assert on_grid(right / rows, rows)
    assert on_grid(round(right / rows, digits), rows)


def test_on_grid_sees_through_rounding_only_where_it_can() -> None:
    assert not on_grid(0.8321, 100)
    assert on_grid(0.8321, 1_000_000)
    assert not on_grid(0.5017, 56)


def test_decimals() -> None:
    assert [decimals(v) for v in (0.5, 0.853, 1.0, 1e-07, 2.5e-05, 0.1 + 0.2)] == [1, 3, 0, 7, 6, 17]


def test_collapsed_runs_are_far_below_the_others() -> None:
    runs = np.array([0.85, 0.86, 0.84, 0.855, 0.5, 0.858])
    assert collapsed(runs).tolist() == [False, False, False, False, True, False]
    assert not collapsed(runs[:4]).any()
    assert not collapsed(np.array([0.5, 0.5, 0.5, 0.5, 0.9])).any()  # above is no collapse


def test_majority_levels_need_repeats_a_large_split_and_a_fall() -> None:
    values = np.array([0.6913, 0.6913, 0.6913, 0.83, 0.83, 0.83, 0.82, 0.5])
    assert majority_levels(values, 1043, center=0.83) == {0.6913}
    assert majority_levels(values, 100, center=0.83) == set()
    assert majority_levels(values, 1043, center=0.7) == set()


def test_sound_scores_pass() -> None:
    scores = column("a", 277, 30) + column("b", 1043, 30)
    assert gate(scores) == tuple(scores)


def test_a_percentage_is_out_of_range() -> None:
    (found,) = gate([score("m", "t", 85.3)])
    assert found.quarantine == "out_of_range"
    assert "percentage" in str(found.quarantine_note)
    assert found.value == 85.3


def test_a_value_of_no_bounds_has_some() -> None:
    found = gate([score("a", "t", value, method="logme") for value in (-1e240, -1e29, 1e29, 1e31)])
    assert reasons(found) == ["out_of_range", None, None, "out_of_range"]
    assert found[0].quarantine_note == "-1e+240 is outside -1e+30..1e+30."


def test_a_probe_of_zero_was_not_measured() -> None:
    probes = [score("a", "mnli", 0.0, method="linear_probe"), score("b", "mnli", 0.4, method="linear_probe")]
    assert reasons(gate(probes)) == ["not_measured", None]


def test_off_grid_with_the_size_given_and_inferred() -> None:
    scores = column("a", 277, 30)
    scores[7] = replace(scores[7], value=0.8123456789)
    assert [i for i, r in enumerate(reasons(gate(scores, {"a": 277}))) if r] == [7]
    told = [
        score("m", "t", 0.5017, rows_tested=56),
        *(score(f"n{i}", "t", i / 56, rows_tested=56) for i in range(9)),
    ]
    assert reasons(gate(told))[0] == "off_grid"


def test_a_metric_that_is_no_accuracy_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    scores = [
        score(f"m{i}", "sts", float(v), rows_tested=1500) for i, v in enumerate(rng.uniform(0.8, 0.9, 30))
    ]
    assert gate(scores) == tuple(scores)


def test_equal_vectors_across_families_are_both_doubted() -> None:
    vector = [0.80 + 0.001 * t for t in range(12)]
    scores = [score("x", f"t{t}", v) for t, v in enumerate(vector)]
    scores += [score("y", f"t{t}", v, family="other") for t, v in enumerate(vector)]
    found = gate(scores)
    assert set(reasons(found)) == {"copied"}
    assert "y" in str(found[0].quarantine_note)
    assert "x" in str(found[-1].quarantine_note)


def test_equal_vectors_within_a_family_keep_the_first() -> None:
    vector = [0.80 + 0.001 * t for t in range(12)]
    scores = [score(m, f"t{t}", v) for m in ("x", "y") for t, v in enumerate(vector)]
    assert reasons(gate(scores)) == [None] * 12 + ["duplicate"] * 12


def test_ten_equal_scores_make_a_copy_and_nine_do_not() -> None:
    few = [score(m, f"t{t}", 0.8 + 0.001 * t) for m in ("x", "y") for t in range(9)]
    assert set(reasons(gate(few))) == {None}


def test_a_collapsed_seed_of_the_vanilla() -> None:
    values = [0.85, 0.86, 0.84, 0.855, 0.5, 0.858]
    scores = [score("base", "t", v, seed=k) for k, v in enumerate(values)]
    assert reasons(gate(scores)) == [None] * 4 + ["collapsed", None]


def majority(fallen: int) -> tuple[ScoreDraft, ...]:
    """Three checkpoints that end at 691/1000 on the first `fallen` of 4 targets, among 20 sound ones."""
    scores = []
    for t in range(4):
        healthy = column(f"t{t}", 1000, 20, seed=t)
        vanilla = [score("base", f"t{t}", 0.8 + 0.001 * k, seed=k) for k in range(5)]
        low = [score(f"bad{k}", f"t{t}", 0.691 if t < fallen else 0.79 + 0.001 * k) for k in range(3)]
        scores += healthy + vanilla + low
    return gate(scores, {f"t{t}": 1000 for t in range(4)})


def test_a_run_at_the_majority_class_collapsed() -> None:
    doubted = [s for s in majority(fallen=1) if s.quarantine]
    assert {s.checkpoint for s in doubted} == {"bad0", "bad1", "bad2"}
    assert {s.quarantine for s in doubted} == {"collapsed"}
    assert {s.target for s in doubted} == {"t0"}


def test_a_checkpoint_that_always_collapses_is_a_bad_start_and_stays() -> None:
    assert not [s for s in majority(fallen=4) if s.quarantine]


def test_what_arrives_quarantined_is_kept_and_judges_nobody() -> None:
    doubted = score("m", "t", 85.0, quarantine="shifted", quarantine_note="so it came")
    assert gate([doubted]) == (doubted,)


def test_every_reason_given_has_a_meaning() -> None:
    assert {"off_grid", "shifted", "copied", "collapsed", "contradicts"} <= set(REASONS)
    assert all(meaning and not meaning.endswith(".") for meaning in REASONS.values())
