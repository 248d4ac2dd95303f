"""The served engine, as the protocols ask it, on a small drawn world."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from headstart.recommend.backtest.material import without_target
from headstart.recommend.backtest.served import Served, ServedFit
from headstart.recommend.backtest.study import done, prepared, tasks
from tests.recommend.backtest_world import World, world

ROWS, NONE = np.arange(1, 41), np.zeros(0, dtype=np.int64)


@pytest.fixture(scope="module")
def drawn() -> World:
    return world()


@pytest.fixture(scope="module")
def cold(drawn: World) -> ServedFit:
    return Served().fit(without_target(drawn.material.evidence, "t2"), ())


def test_it_orders_a_cold_target_better_than_chance(drawn: World, cold: ServedFit) -> None:
    gain = cold.gain(cold.unseen(drawn.material, 2), ROWS)
    assert np.corrcoef(gain, drawn.true[1:, 2])[0, 1] > 0.6
    assert np.corrcoef(cold.quality()[1:], drawn.true[1:, 2])[0, 1] > 0.6


def test_it_learns_from_what_is_measured(drawn: World, cold: ServedFit) -> None:
    shown = drawn.material.gains[1:, 2]
    at = np.array([7, 3, 20])  # in any order
    before = cold.gain(cold.warm(2, NONE, np.zeros(0)), ROWS)
    after = cold.gain(cold.warm(2, ROWS[at], shown[at]), ROWS)
    assert np.abs(after - shown)[at].mean() < np.abs(before - shown)[at].mean()


def test_it_never_picks_what_was_tried(drawn: World, cold: ServedFit) -> None:
    shown, tried = drawn.material.gains[1:, 2], []
    for _ in range(6):
        at = np.array(tried, dtype=np.int64)
        tried.append(cold.pick(cold.warm(2, at, shown[at - 1]), ROWS, at))
    assert len(set(tried)) == 6
    assert set(tried) <= set(ROWS.tolist())


def test_drawn_gains_are_spread_as_the_measured(drawn: World) -> None:
    whole = Served().fit(drawn.material.evidence, ())
    rng = np.random.default_rng(0)
    draws = np.array([whole.draw(2, ROWS, rng) for _ in range(40)])
    true, shown = draws[:, 0], draws[:, 1]
    assert np.corrcoef(true.mean(axis=0), drawn.material.gains[1:, 2])[0, 1] > 0.7
    assert (shown - true).std() == pytest.approx(drawn.material.noise[2], rel=0.1)
    assert true.std() == pytest.approx(drawn.true[1:, 2].std(), rel=0.5)


def test_every_protocol_runs_and_everything_pickles(drawn: World) -> None:
    study = pickle.loads(pickle.dumps(prepared([drawn.material], Served())))
    todo = tasks(study)
    for kind in ("target", "checkpoints", "cells"):
        task = next(one for one in todo if one.kind == kind)
        result = pickle.loads(pickle.dumps(done(study, task)))
        assert result.found
        assert result.seconds["fit"] > 0
