"""Probes in the answers of POST /recommend: the static ranking, and what they weigh on the asked target."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from live_service import serving, settings
from test_recommend import add, ask, finetune, names

from headstart.refit import refit_stale

if TYPE_CHECKING:
    from headstart.entities import ScoreDraft
    from headstart.store import Store


def linear_probe(checkpoint: str, target: str, value: float) -> ScoreDraft:
    return replace(finetune(checkpoint, target, value), method="linear_probe")


def evidence_of(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {c["checkpoint"]["name"]: c["evidence"] for c in answer["candidates"]}


def test_a_family_nobody_published_is_ranked_by_its_reference_probes(store: Store) -> None:
    probes = {"base": 0.5, "m0": 0.52, "m1": 0.66, "m2": 0.45, "m3": 0.58}
    add(
        store,
        *(linear_probe(name, "mnli", value) for name, value in probes.items()),
        linear_probe("m2", "x", 0.9),
    )
    refit_stale(store)
    with serving(store, settings()) as live:
        anywhere = ask(live, family="base")
        there = ask(live, family="base", target={"name": "mnli"})
    assert names(anywhere) == names(there) == ["m1", "m3", "m0", "m2"]
    assert anywhere["verdict"] == "measure_first"
    assert anywhere["families"][0]["reference"] == "mnli"
    assert "linear probe on mnli" in anywhere["notes"][-1]
    assert {e["probes_here"] for e in evidence_of(anywhere).values()} == {0}
    assert {e["probes_here"] for e in evidence_of(there).values()} == {1}
    assert there["families"][0]["target"]["probed"] == 4
    assert there["families"][0]["vanilla_score"] is None
    assert there["candidates"][0]["expected_score"] is None
    assert any("never finetuned on mnli" in note for note in there["notes"])
    assert any(note.startswith("4 checkpoints were probed on mnli in base; its") for note in there["notes"])
    for candidate in there["candidates"]:
        low, high = candidate["gain_interval"]
        assert high - low > 3


def test_probes_on_the_asked_target_are_shown_and_weigh_what_finetunes_taught(store: Store) -> None:
    rng = np.random.default_rng(0)
    own = rng.normal(size=(40, 4))  # of each checkpoint on each of a, b, c and x
    finetunes = [finetune("base", t, 0.7 + rng.normal(0, 0.003), k) for t in "abc" for k in range(5)]
    finetunes += [
        finetune(f"m{i}", t, 0.7 + 0.02 * own[i, k]) for k, t in enumerate("abc") for i in range(40)
    ]
    reference = [linear_probe(f"m{i}", "mnli", 0.5 + 0.05 * rng.normal()) for i in range(40)]
    add(store, *finetunes, *reference, linear_probe("base", "mnli", 0.5))
    refit_stale(store)
    with serving(store, settings()) as live:
        before = ask(live, family="base", target={"name": "a"})
    assert (before["families"][0]["probe_weights"], before["notes"]) == ({}, [])

    add(store, *(linear_probe(f"m{i}", "x", 0.5 + 0.1 * own[i, 3]) for i in range(20)))
    refit_stale(store)
    with serving(store, settings()) as live:
        untaught = ask(live, family="base", target={"name": "x"}, limit=40)
        static = ask(live, family="base", limit=40)
        assert ask(live, family="base", target={"name": "a"})["candidates"] == before["candidates"]
    assert untaught["families"][0]["target"]["probed"] == 20
    assert (
        untaught["families"][0]["probe_weights"]["linear_probe"].items() >= {"weight": 0, "cells": 0}.items()
    )
    assert "20 checkpoints were probed on x in base; linear_probe has no weight yet" in untaught["notes"][-1]
    assert [e["probes_here"] for e in evidence_of(untaught).values()].count(1) == 20
    assert names(untaught) == names(static)

    add(
        store,
        *(linear_probe(f"m{i}", t, 0.5 + 0.1 * own[i, k]) for k, t in enumerate("abc") for i in range(40)),
    )
    # three checkpoints probed on y, no two of them alike
    apart = [replace(linear_probe(f"m{i}", "y", i / 9), method_version=str(10 + i)) for i in range(3)]
    add(store, *apart)
    refit_stale(store)
    with serving(store, settings()) as live:
        taught = ask(live, family="base", target={"name": "x"}, limit=40)
        alone = ask(live, family="base", target={"name": "y"})
    weight = taught["families"][0]["probe_weights"]["linear_probe"]
    assert weight["cells"] == 120
    assert alone["families"][0]["target"]["probed"] == 3
    assert "linear_probe says nothing here" in alone["notes"][-1]
    assert weight["weight"] > 3 * weight["stderr"]
    assert f"weight of {weight['weight']:.2f}, learnt from 120 finetunes" in taught["notes"][-1]
    place = {name: rank for rank, name in enumerate(names(taught))}
    best, worst = (f"m{i}" for i in np.argsort(-own[:20, 3])[[0, -1]])
    assert place[best] < place[worst]
    assert names(taught)[0] != names(static)[0] or best == names(static)[0]
