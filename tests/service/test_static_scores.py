"""GET /families/{name} says how well static scores foretell gain; a not converged free energy has no say."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from live_service import Live, serving, settings
from structlog.testing import capture_logs
from typer.testing import CliRunner

from headstart.entities import CheckpointDraft, ImportBatch, ImportReport, ScoreDraft
from headstart.recommend import decide
from headstart.refit import refit_stale
from service.board import Board
from service.cli import app
from tests.recommend.posterior_of import CHECKPOINTS, posterior_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headstart.store import Store

NAMES = ["linear_probe", "free_energy", "trace", "loss", "llc", "size"]
COUNT = 40


def put(store: Store, *scores: ScoreDraft, checkpoints: tuple[CheckpointDraft, ...] = ()) -> None:
    batch = ImportBatch(checkpoints=checkpoints, targets=(), scores=scores, report=ImportReport())
    store.queue_import(store.create_import("table", "upload").id)
    claimed = store.claim_import(60)
    assert claimed is not None
    assert store.finish_import(claimed.id, claimed.attempt, batch) is not None


def scores_of(number: int) -> list[ScoreDraft]:
    """The higher the number, the more gain, and the lower the free energy; the trace goes its own way."""
    gains = ScoreDraft(family="org/f", checkpoint=f"c{number}", target="a", method="finetune", value=0.0)
    level = 0.6 + 0.002 * number
    energy = replace(
        gains,
        method="free_energy",
        value=3000.0 - 5 * number,
        provenance={"trace": {"value": math.sin(number)}, "loss": {"value": 1 - number / 99}},
    )
    return [
        energy,
        *(replace(gains, target=t, value=level + 0.01 * math.cos(number + k)) for k, t in enumerate("abc")),
    ]


@pytest.fixture
def live(store: Store) -> Iterator[Live]:
    names = [f"c{k}" for k in range(COUNT)]
    put(
        store,
        *(score for k in range(COUNT) for score in scores_of(k)),
        checkpoints=tuple(
            CheckpointDraft(family="org/f", name=one, is_vanilla=one == "c0", parameters=1000)
            for one in names
        ),
    )
    with capture_logs(), serving(store, settings()) as live:
        yield live


def page(live: Live) -> dict[str, dict[str, Any]]:
    body = live.http.get("/families/org/f").json()
    assert [one["name"] for one in body["static_scores"]] == NAMES
    return {one["name"]: one for one in body["static_scores"]}


def test_each_static_score_is_held_against_gain(live: Live) -> None:
    assert live.http.get("/families/org/f").json()["static_scores_version"] is None
    assert {one["reason"] for one in page(live).values()} == {
        "The evidence of this family has not been fitted yet."
    }
    refit_stale(live.store)
    found = page(live)
    assert live.http.get("/families/org/f").json()["static_scores_version"] == live.store.evidence_version()
    energy = found["free_energy"]
    assert energy["checkpoints"] == COUNT - 1, "the vanilla is none of them"
    assert 0.8 < energy["spearman"]["low"] < energy["spearman"]["value"] <= energy["spearman"]["high"] <= 1
    assert (energy["reference"]["target"], energy["reference"]["method_version"]) == ("a", "1")
    assert energy["weight"]["value"] > energy["weight"]["stderr"] > 0
    assert energy["reason"] is None
    assert found["loss"]["spearman"] == energy["spearman"]
    assert found["trace"]["pearson"]["low"] < 0 < found["trace"]["pearson"]["high"]
    assert found["llc"]["reason"] == found["linear_probe"]["reason"] == "No checkpoint has this score."
    assert "is the same" in found["size"]["reason"]
    listed = live.http.get("/families").json()["items"]
    assert "static_scores" not in listed[0]


def test_what_is_quarantined_is_no_evidence(live: Live) -> None:
    refit_stale(live.store)
    before = page(live)
    put(
        live.store,
        *(
            replace(scores_of(k)[0], seed=1, value=9e9 * (k % 2), quarantine="not_converged")
            for k in range(COUNT)
        ),
    )
    assert refit_stale(live.store) in {0, 1}
    assert page(live) == before


def test_the_command_line_shows_them_below_the_ranking(live: Live) -> None:
    refit_stale(live.store)
    deadline = time.monotonic() + 10
    while live.http.get("/families/org/f/ranking").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    done = CliRunner().invoke(app, ["families", "org/f"], env={"HEADSTART_URL": live.url, "COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    for shown in ("free_energy", "Spearman", "weight", "+0.9", "linear_probe, llc", "No checkpoint has this"):
        assert shown in done.output
    as_json = CliRunner().invoke(app, ["families", "org/f", "--json"], env={"HEADSTART_URL": live.url})
    assert "items" in json.loads(as_json.output), "as ever"


def test_free_energy_is_not_proposed_at_the_price_of_a_linear_probe() -> None:
    weights = np.array([0.9, 0.1])
    fitted = posterior_of(probe_methods=("free_energy", "logme"), probe_weight=weights)
    board = SimpleNamespace(
        family=SimpleNamespace(posterior=fitted),
        view=decide.known_view(fitted, 0),
        _probe_seconds=np.ones(CHECKPOINTS),
    )
    assert [one.method for one in Board._probes(board, np.arange(1, 9))] == ["logme"]  # type: ignore[arg-type]
