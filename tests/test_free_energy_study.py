"""The statistics that the reproduction study stands on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench.free_energy_study.correlations import (
    between,
    interval,
    partial,
    partial_ranks,
    pearson,
    resampled,
    spearman,
)
from bench.free_energy_study.tables import chain, correlations, whole

RNG = np.random.default_rng(0)


def test_correlations_are_scipys_row_by_row() -> None:
    a, b = RNG.normal(size=(2, 4, 20))
    b = a + b.round()
    assert pearson(a, b) == pytest.approx([stats.pearsonr(*one)[0] for one in zip(a, b, strict=True)])
    assert spearman(a, b) == pytest.approx([stats.spearmanr(*one)[0] for one in zip(a, b, strict=True)])


def test_a_constant_has_no_correlation() -> None:
    assert np.isnan(pearson(np.ones(5), np.arange(5.0)))


def test_partial_correlation_is_that_of_the_residuals() -> None:
    given = RNG.normal(size=(2, 30))
    a, b = given.sum(0) + RNG.normal(size=30), given[0] - RNG.normal(size=30)
    base = np.column_stack([np.ones(30), *given])
    left = [one - base @ np.linalg.lstsq(base, one, rcond=None)[0] for one in (a, b)]
    assert partial(a, b, *given) == pytest.approx(stats.pearsonr(*left)[0])


def test_what_only_repeats_the_given_adds_nothing() -> None:
    loss, transfer = RNG.normal(size=(2, 30))
    assert np.isnan(partial(2 * loss + 1, transfer, loss))
    assert np.isnan(partial_ranks(np.exp(loss), transfer, loss))
    assert partial(loss, transfer, loss[::-1], loss[::-1]) == pytest.approx(
        partial(loss, transfer, loss[::-1])
    )


def test_settings_are_drawn_whole() -> None:
    settings = ["b", "a", "c", "a", "b", "c"]
    draws = resampled(settings, resamples=50)
    assert draws.shape == (50, 6)
    for draw in draws:
        names = [settings[row] for row in draw]
        assert all(names.count(one) % 2 == 0 for one in "abc")
        assert all(sum(draw == row) == names.count(settings[row]) // 2 for row in draw)
    with pytest.raises(ValueError, match="same number"):
        resampled(["a", "a", "b"])


def test_copies_of_a_setting_do_not_narrow_the_interval() -> None:
    a, b = RNG.normal(size=(2, 12))
    b = a + b
    once = interval(pearson, (a, b), resampled([str(k) for k in range(12)]))
    thrice = interval(
        pearson, (np.repeat(a, 3), np.repeat(b, 3)), resampled(np.repeat(np.arange(12).astype(str), 3))
    )
    assert thrice["value"] == pytest.approx(once["value"])
    assert thrice["high"] - thrice["low"] == pytest.approx(once["high"] - once["low"], rel=0.1)
    assert once["low"] < once["value"] < once["high"]


def test_the_share_between_settings() -> None:
    settings = np.repeat(np.arange(200).astype(str), 3)
    effect, noise = np.repeat(RNG.normal(size=200), 3), RNG.normal(size=600)
    assert between(effect, settings) == pytest.approx(1.0)
    assert between(effect + noise, settings) == pytest.approx(0.5, abs=0.1)
    assert between(noise, settings) == pytest.approx(0.0, abs=0.1)
    assert np.isnan(between(noise[:5], ["a", "b", "c", "d", "e"]))


def checkpoint(rate: float, wbic: float, accuracy: float, *, converged: bool = True) -> dict[str, Any]:
    told = {"wbic": wbic, "converged": converged}
    setting = {"rate": rate, "batch": 64, "momentum": 0.0, "noise": rate / 64}
    transfer = {"full": [accuracy, accuracy]}
    return {"setting": setting, "chains": {"3": told}, "loss": wbic, "trace": rate, **transfer}


def test_a_setting_that_the_gate_refused_once_is_left_out_whole() -> None:
    found = [checkpoint(rate, 100 * rate, 0.9 - rate / 10) for rate in (0.1, 0.2, 0.3, 0.4) for _ in range(2)]
    found[3] = checkpoint(0.2, 1e6, 0.0, converged=False)
    of = chain(3.0, "wbic")
    assert of(found[3]) is None
    values = np.array([of(one) or np.nan for one in found])
    assert whole(found, values).tolist() == [True] * 2 + [False] * 2 + [True] * 4
    told = correlations(found, of, "full", partials=True)
    assert told is not None
    assert (told["checkpoints"], told["pearson"]["value"]) == (6, pytest.approx(-1.0))
    assert np.isnan(told["given_loss"]["value"])
    assert correlations(found[:4], of, "full") is None
