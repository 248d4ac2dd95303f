"""The reference probe: which one it is, and what it makes of few probes."""

import numpy as np
import pytest

from headstart.recommend import decide
from headstart.recommend.evidence import LOWER_IS_BETTER, PROBES
from headstart.recommend.fit import fit
from headstart.recommend.probes import ENOUGH, TYPICAL_SPREAD, probe_covariate, reference
from tests.recommend.evidence_of import evidence_of, probed, world

NOTHING = np.full((6, 3), np.nan)


def some(*at: int) -> np.ndarray:
    """Probes of these checkpoints, 0 being the vanilla."""
    values = np.full(7, np.nan)
    values[list(at)] = 0.5 + 0.01 * np.array(at)
    return values


def test_probes_are_the_methods_that_read_features() -> None:
    assert "linear_probe" in PROBES
    assert "finetune" not in PROBES
    assert not LOWER_IS_BETTER - set(PROBES)


def test_there_is_no_reference_without_a_linear_probe() -> None:
    plain = evidence_of(NOTHING)
    assert reference(plain) is None
    assert reference(probed(plain, some(0, 1, 2), target=0, method="logme")) is None
    assert np.isnan(probe_covariate(plain, None)).all()


def test_the_reference_is_where_most_checkpoints_were_probed() -> None:
    evidence = probed(evidence_of(NOTHING), some(1, 2, 3), target=2, method="linear_probe", protocol=4)
    evidence = probed(evidence, some(0, 1), target=0, method="linear_probe", protocol=1)
    evidence = probed(evidence, some(0, 1, 2, 3, 4, 5), target=1, method="knn", protocol=1)
    assert reference(evidence) == (2, 4)
    seeds = probed(probed(evidence, some(0, 1), target=0, method="linear_probe", protocol=1), some(0, 1),
                   target=0, method="linear_probe", protocol=1)  # fmt: skip
    assert reference(seeds) == (2, 4), "seeds of one checkpoint are no further checkpoints"


def test_ties_go_to_a_probed_vanilla_then_the_lowest_target_then_the_newest() -> None:
    evidence = probed(evidence_of(NOTHING), some(1, 2, 3), target=0, method="linear_probe")
    evidence = probed(evidence, some(0, 1, 2), target=2, method="linear_probe")
    assert reference(evidence) == (2, 0)
    evidence = probed(evidence, some(0, 4, 5), target=1, method="linear_probe", protocol=1)
    assert reference(evidence) == (1, 1)
    evidence = probed(evidence, some(0, 4, 5), target=1, method="linear_probe", protocol=3, created=3e9)
    evidence = probed(evidence, some(0, 4, 5), target=1, method="linear_probe", protocol=5, created=1e9)
    assert reference(evidence) == (1, 3)


def test_two_protocols_of_one_probe_are_never_mixed() -> None:
    ours, theirs = some(0, 1, 2, 3), np.full(7, np.nan)
    theirs[4:] = 0.9  # another recipe, another level
    one = probed(evidence_of(NOTHING), ours, target=0, method="linear_probe")
    two = probed(one, theirs, target=0, method="linear_probe", protocol=1)
    np.testing.assert_array_equal(probe_covariate(two, reference(two)), probe_covariate(one, reference(one)))
    fitted = fit(two)
    assert fitted.probed.tolist() == [True] * 4 + [False] * 3
    assert fitted.quality[3] > fitted.quality[4:].max()


def test_the_probe_counts_from_the_vanilla() -> None:
    evidence = evidence_of(np.zeros((4, 1)), probe=np.array([0.55, 0.50, 0.55, 0.60, np.nan]))
    found = probe_covariate(evidence, reference(evidence))
    assert found[0] == 0
    assert found[1] == pytest.approx(-found[3])
    assert found[2] == 0
    assert np.isnan(found[4])


def test_an_unprobed_vanilla_is_replaced_by_the_median_probe() -> None:
    evidence = evidence_of(np.zeros((3, 1)), probe=np.array([np.nan, 0.50, 0.55, 0.60]))
    assert probe_covariate(evidence, reference(evidence))[2] == 0


def test_many_probes_are_measured_by_their_own_spread_and_few_by_the_usual_one() -> None:
    spreads = []
    for count in (500, 10, 2):
        probe = np.append(0.5, 0.5 + 0.01 * np.random.default_rng(0).normal(size=count))
        evidence = evidence_of(np.full((count, 1), np.nan), probe=probe)
        found = probe_covariate(evidence, reference(evidence))
        spreads.append(min(1.0, (count + 1) / ENOUGH) * (probe[1] - 0.5) / found[1])
    assert spreads[0] == pytest.approx(0.01, rel=0.1)
    assert spreads[0] < spreads[1] < spreads[2] < 0.07
    assert spreads[2] > 0.04


def test_a_few_probes_of_ones_own_hardly_move_what_finetunes_tell() -> None:
    for seed in range(8):
        gains = world(seed, checkpoints=40, targets=6)["gains"]
        gains[8:], gains[:, 5] = np.nan, np.nan  # 8 checkpoints finetuned, none of them linearly probed
        plain = evidence_of(gains)
        values = np.full(41, np.nan)
        values[[0, 30, 31]] = 0.5, 0.9, 0.45
        few = probed(plain, values, target=5, method="linear_probe", stderr=0.02)
        before, after = (
            decide.predict(f, decide.known_view(f, 0), np.arange(1, 41)) for f in (fit(plain), fit(few))
        )
        assert after.gain[29] > after.gain[31] > after.gain[30], "they order what nothing else tells apart"
        points = np.abs(after.gain - before.gain)
        assert (points < 0.22 * (before.high - before.low)).all()
        assert np.abs(after.p_beats - before.p_beats).max() < 0.2


def test_a_full_reference_counts_in_full() -> None:
    found = []
    for count in (10, ENOUGH - 1, 5 * ENOUGH):  # and the vanilla
        probe = np.append(0.5, 0.5 + 0.07 * np.linspace(-2, 2, count))
        evidence = evidence_of(np.full((count, 1), np.nan), probe=probe)
        low, high = np.quantile(probe, [0.1, 0.9])
        spread = ((high - low) / 2.5631) ** min(1, (count + 1) / ENOUGH)
        spread *= TYPICAL_SPREAD ** max(0, 1 - (count + 1) / ENOUGH)
        found.append(probe_covariate(evidence, reference(evidence))[-1] * spread / 0.14)
    assert found == pytest.approx([11 / 30, 1, 1])


def test_a_spread_within_the_probes_own_error_makes_no_ranking() -> None:
    values = np.append(0.5, 0.5 + 0.001 * np.random.default_rng(0).normal(size=40))
    plain = evidence_of(np.full((40, 1), np.nan))
    told = probed(plain, values, target=0, method="linear_probe", stderr=0.02)
    untold = probed(plain, values, target=0, method="linear_probe")
    assert np.abs(probe_covariate(told, reference(told))).max() < 0.2
    assert np.abs(probe_covariate(untold, reference(untold))).max() > 1


def test_a_family_nobody_published_is_ranked_by_its_probes() -> None:
    values = np.array([0.40, 0.55, 0.45, np.nan, 0.62, 0.38, 0.41])
    fitted = fit(probed(evidence_of(NOTHING, vanilla_runs=0), values, target=1, method="linear_probe"))
    order = decide.static_order(fitted).tolist()
    assert order[:3] == [4, 1, 2]
    assert order[-1] == 5
    assert fitted.reference == 1
    view = decide.unseen_view(fitted, np.ones(3), probed=1)
    rows = decide.head(fitted, view, decide.static_order(fitted), 10)
    assert rows.tolist() == order
    found = decide.predict(fitted, view, rows)
    assert found.probes_here.tolist() == [int(row != 3) for row in order]
    assert decide.probed_here(fitted, view) == 5
    assert np.isnan(view.level)
    assert (found.high - found.low > 3).all(), "a probe alone says little"
    first = decide.judge(found.gain[0], found.p_beats[0], found.p_worth[0], decide.WORTH)
    assert first is decide.Verdict.MEASURE_FIRST
