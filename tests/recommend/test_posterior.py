"""Known answers: data drawn from the model, and the ends of the scale."""

import dataclasses

import numpy as np
import pytest
from scipy.special import stdtr, stdtrit
from scipy.stats import spearmanr

from headstart.recommend import decide
from headstart.recommend.posterior import Posterior, fit, from_bytes, to_bytes
from headstart.recommend.t_noise import T_QUANTILE_90, t_cdf
from tests.recommend.evidence_of import evidence_of, world


def arrays(posterior: Posterior) -> dict[str, np.ndarray]:
    return {f.name: np.asarray(getattr(posterior, f.name)) for f in dataclasses.fields(posterior)}


def test_quality_and_sensitivity_are_recovered() -> None:
    drawn = world()
    fitted = fit(evidence_of(drawn["gains"], probe=drawn["probe"]))
    assert np.corrcoef(fitted.quality[1:], drawn["quality"])[0, 1] > 0.97
    assert np.corrcoef(fitted.sensitivity * fitted.scale, drawn["sensitivity"] * drawn["scale"])[0, 1] > 0.95


def test_intervals_of_unmeasured_cells_cover_the_true_gain() -> None:
    covered = []
    for seed in range(4):
        drawn = world(seed)
        rng = np.random.default_rng(seed)
        hidden = rng.random(drawn["gains"].shape) < 0.3
        seen = np.where(hidden, np.nan, drawn["gains"])
        fitted = fit(evidence_of(seen, probe=drawn["probe"], seed_noise=0.4))
        for t in range(seen.shape[1]):
            rows = np.flatnonzero(hidden[:, t])
            found = decide.predict(fitted, decide.known_view(fitted, t), rows + 1)
            truth = drawn["true_gains"][rows, t]
            covered.append((found.low <= truth) & (truth <= found.high))
    assert 0.75 < np.concatenate(covered).mean() < 0.9


def test_without_measurements_the_answer_is_the_prior() -> None:
    probe = np.array([0.5, 0.4, 0.6, np.nan])
    fitted = fit(evidence_of(np.full((3, 2), np.nan), probe=probe))
    assert fitted.quality[2] > fitted.quality[1]
    assert (fitted.quality_var >= 1).all()
    assert not fitted.finetuned.any()
    found = decide.predict(fitted, decide.known_view(fitted, 0), np.array([1, 2, 3]))
    assert np.isfinite(found.gain).all()
    assert (found.high - found.low > 2).all()


def test_many_measurements_overrule_the_prior() -> None:
    drawn = world(checkpoints=200, targets=36, noise=0.2)
    misleading = np.concatenate([[0.5], 0.5 - 0.05 * drawn["quality"]])
    fitted = fit(evidence_of(drawn["gains"], probe=misleading))
    assert spearmanr(fitted.quality[1:], drawn["quality"])[0] > 0.95


def test_a_checkpoint_measured_rarely_is_shrunk_to_its_probe() -> None:
    drawn = world()
    gains = drawn["gains"].copy()
    gains[0, 1:] = np.nan
    fitted = fit(evidence_of(gains, probe=drawn["probe"]))
    assert fitted.quality_var[1] > 5 * np.median(fitted.quality_var[2:])
    assert fitted.finetuned[1] == 1


def test_the_order_of_rows_and_columns_does_not_matter() -> None:
    drawn = world(checkpoints=60, targets=10)
    plain = evidence_of(drawn["gains"], probe=drawn["probe"])
    rng = np.random.default_rng(1)
    shuffled = rng.permutation(len(plain.value))
    mixed = dataclasses.replace(
        plain,
        **{
            name: getattr(plain, name)[shuffled]
            for name in (
                "checkpoint",
                "target",
                "protocol",
                "seed",
                "value",
                "stderr",
                "rows_tested",
                "created",
            )
        },
    )
    here, there = arrays(fit(plain)), arrays(fit(mixed))
    for name, one in here.items():
        np.testing.assert_allclose(there[name], one, rtol=1e-9, atol=1e-12, err_msg=name)


def test_fitting_twice_gives_the_same_bytes() -> None:
    drawn = world(checkpoints=40, targets=8)
    one, two = (to_bytes(fit(evidence_of(drawn["gains"], probe=drawn["probe"]))) for _ in range(2))
    assert one == two
    read = from_bytes(one)
    for name, array in arrays(fit(evidence_of(drawn["gains"], probe=drawn["probe"]))).items():
        np.testing.assert_array_equal(arrays(read)[name], array)


def test_more_seeds_narrow_the_answer() -> None:
    drawn = world(checkpoints=80, targets=10)
    widths = []
    for seeds in (1, 5):
        fitted = fit(evidence_of(drawn["gains"], probe=drawn["probe"], seeds=seeds, seed_noise=1.0))
        found = decide.predict(fitted, decide.known_view(fitted, 3), np.arange(1, 81))
        widths.append(np.median(found.high - found.low))
    assert widths[1] < widths[0]


@pytest.mark.parametrize(
    "gains",
    [
        np.zeros((0, 3)),
        np.zeros((1, 1)),
        np.zeros((5, 1)),
        np.zeros((5, 4)),
        np.full((5, 4), 3.0),
        np.array([[2.0, np.nan], [np.nan, np.nan], [np.nan, 1.0]]),
        np.array([[1e3, -60.0], [0.0, 0.0]]),
    ],
    ids=[
        "no checkpoint",
        "one cell",
        "one target",
        "all equal",
        "all the same gain",
        "nearly nothing",
        "wild",
    ],
)
@pytest.mark.parametrize("vanilla_runs", [0, 1, 20])
def test_poor_evidence_gives_honest_width_and_never_nan(gains: np.ndarray, vanilla_runs: int) -> None:
    fitted = fit(evidence_of(gains, vanilla_runs=vanilla_runs))
    rows = np.arange(1, gains.shape[0] + 1)
    everyone = np.ones(gains.shape[1])
    views = [decide.unseen_view(fitted, everyone)]
    views += [decide.known_view(fitted, t) for t in range(gains.shape[1]) if vanilla_runs]
    for view in views:
        found = decide.predict(fitted, view, rows)
        for name in ("gain", "low", "high", "p_beats"):
            assert np.isfinite(getattr(found, name)).all(), name
        assert (found.low < found.high).all()
        assert ((found.p_beats > 0) & (found.p_beats < 1)).all()


def test_a_family_without_a_vanilla_is_fitted_on_nothing() -> None:
    evidence = dataclasses.replace(evidence_of(np.ones((4, 3))), vanilla=None)
    fitted = fit(evidence)
    assert fitted.vanilla == -1
    assert not np.isfinite(fitted.level).any()
    assert not fitted.measured.any()


def test_the_t_distribution_in_closed_form() -> None:
    t = np.linspace(-30, 30, 301)
    np.testing.assert_allclose(t_cdf(t), stdtr(6, t), atol=1e-14)
    assert pytest.approx(stdtrit(6, 0.9)) == T_QUANTILE_90
