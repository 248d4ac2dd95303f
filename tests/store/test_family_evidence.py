"""The evidence of a family as arrays."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from headstart.entities import CheckpointDraft, ScoreDraft, TargetDraft
from headstart.recommend.evidence import ONE_PASS, PROBES
from headstart.store import evidence

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from headstart.entities import Import
    from headstart.store import Store
    from tests.conftest import FrozenClock

    Fill = Callable[..., Import]

SCORE = ScoreDraft(family="f", checkpoint="b", target="t1", method="finetune", value=0.5)


def test_columns_hold_the_scores_in_force_of_the_family(store: Store, fill: Fill, clock: FrozenClock) -> None:
    probe = replace(SCORE, method="linear_probe", target="t2", value=0.25, stderr=0.01)
    fill(
        SCORE,
        replace(SCORE, checkpoint="a", target="t2", value=0.75, stderr=0.1, rows_tested=8, seed=4),
        replace(SCORE, seed=9, method_version="2"),
        replace(SCORE, seed=8, params={"lr": 1}),
        replace(SCORE, seed=7, quarantine="off_grid"),
        replace(SCORE, method="of another package"),
        replace(SCORE, family="g"),
        probe,
        replace(probe, checkpoint="a", quarantine="not_measured"),
        replace(probe, checkpoint="a", target="t1", value=0.3, stderr=None),
        replace(probe, checkpoint="cold", value=0.2, method_version="2"),
        checkpoints=[
            CheckpointDraft(family="g", name="x", is_vanilla=True),
            CheckpointDraft(family="f", name="cold"),
            CheckpointDraft(family="f", name="a", is_vanilla=True),
        ],
        targets=[TargetDraft(name="t0", rows_tested=100)],
    )
    found = store.evidence("f")
    assert (found.family, found.evidence_version) == ("f", 1)
    assert found.checkpoint_names == ("cold", "a", "b")
    assert found.checkpoint_ids.tolist() == list(store.catalogue("f").ids)
    assert found.vanilla == 1
    assert found.target_names == ("t0", "t1", "t2")
    assert found.target_ids.tolist() == [t.id for t in store.all_targets()]
    np.testing.assert_array_equal(found.target_rows, [100, np.nan, np.nan])

    order = np.argsort(found.seed)  # nothing but the catalogue is sorted
    assert found.seed[order].tolist() == [0, 4, 8, 9]
    assert found.checkpoint[order].tolist() == [2, 1, 2, 2]
    assert found.target[order].tolist() == [1, 2, 1, 1]
    assert found.value[order].tolist() == [0.5, 0.75, 0.5, 0.5]
    np.testing.assert_array_equal(found.stderr[order], [np.nan, 0.1, np.nan, np.nan])
    np.testing.assert_array_equal(found.rows_tested[order], [np.nan, 8, np.nan, np.nan])
    assert found.created.tolist() == [clock.now.timestamp()] * 4
    protocol = found.protocol[order]
    assert protocol[0] == protocol[1]
    assert sorted(set(protocol.tolist())) == [0, 1, 2]

    assert {found.probe_methods[k] for k in found.probe_method} == {"linear_probe"}
    assert "finetune" not in found.probe_methods
    order = np.argsort(found.probe_value)
    assert found.probe_value[order].tolist() == [0.2, 0.25, 0.3]
    assert found.probed_checkpoint[order].tolist() == [0, 2, 1]
    assert found.probed_target[order].tolist() == [2, 2, 1]
    np.testing.assert_array_equal(found.probe_stderr[order], [0.01, 0.01, np.nan])
    other, one, same = found.probe_protocol[order].tolist()
    assert one == same != other
    assert found.probe_created.tolist() == [clock.now.timestamp()] * 3
    assert found.probe_methods == ONE_PASS, "as if there were no free energy"
    assert found.energy_parts is None


ENERGY = replace(
    SCORE,
    method="free_energy",
    value=812.5,
    stderr=3.0,
    provenance={
        "loss": {"value": 0.25, "stderr": 0.01},
        "trace": {"value": 90, "stderr": 9.0},
        "llc": {"value": -1.5, "stderr": None},
    },
)


def test_free_energies_tell_their_parts(store: Store, fill: Fill) -> None:
    fill(
        replace(SCORE, method="linear_probe", params={"a": 1}),
        ENERGY,
        replace(ENERGY, checkpoint="a", target="t2", method_version="2", provenance={}),
        replace(ENERGY, seed=5, value=900.0, quarantine="not_converged"),
        replace(ENERGY, family="g", checkpoint="x"),
        checkpoints=[CheckpointDraft(family="f", name="a"), CheckpointDraft(family="f", name="b")],
    )
    found = store.evidence("f")
    assert found.probe_methods == PROBES
    energy = np.flatnonzero(found.probe_method == PROBES.index("free_energy"))
    assert found.probe_value[energy].tolist() == [812.5, 812.5], "what is quarantined is no evidence"
    parts = found.energy_parts
    assert parts is not None
    assert parts.checkpoint.tolist() == found.probed_checkpoint[energy].tolist() == [1, 0]
    assert parts.target.tolist() == found.probed_target[energy].tolist() == [0, 1]
    assert parts.protocol.tolist() == found.probe_protocol[energy].tolist()
    versions = [found.protocol_named(code)[0] for code in parts.protocol]
    assert versions == ["1", "2"]
    assert len(found.probe_protocols) == 3
    np.testing.assert_array_equal(parts.loss, [0.25, np.nan])
    np.testing.assert_array_equal(parts.trace, [90.0, np.nan])
    np.testing.assert_array_equal(parts.llc, [-1.5, np.nan])


def test_parts_that_are_no_numbers_are_unknown(store: Store, fill: Fill) -> None:
    odd = [None, "1", True, [], {}, {"value": "1"}, {"value": True}, {"value": 10**400}, 3.5, {"value": None}]
    scores = [replace(ENERGY, seed=k, provenance={"loss": one, "llc": "\0"}) for k, one in enumerate(odd)]
    fill(*scores, replace(ENERGY, seed=99, provenance={"loss": {"value": 2}, "\ud800": "\0"}))
    parts = store.evidence("f").energy_parts
    assert parts is not None
    np.testing.assert_array_equal(parts.loss, [*[np.nan] * len(odd), 2.0])
    assert np.isnan(parts.llc).all()


def test_what_the_checkpoints_are_stands_beside_them(
    store: Store, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "ROWS_AT_ONCE", 2)
    then = datetime(2022, 8, 4, 10, 36, 41, tzinfo=UTC)
    published = {"layers": 12, "classification": "True", "last_modified": "2022-08-04T10:36:41.000Z"}
    fill(
        checkpoints=[
            CheckpointDraft(family="f", name="z", parameters=5, details=published),
            CheckpointDraft(family="g", name="m", parameters=99, details={"layers": 99}),
            CheckpointDraft(family="f", name="nothing"),
            CheckpointDraft(family="f", name="body", details={"architecture": "BertModel", "layers": 6}),
            CheckpointDraft(
                family="f", name="odd", parameters=0, details={"layers": 3, "tags": ["\0", "\ud800"]}
            ),
            CheckpointDraft(
                family="f", name="a", parameters=2**53, details={"layers": [], "classification": {}}
            ),
        ]
    )
    found = store.evidence("f")
    nan = np.nan
    assert found.checkpoint_names == ("z", "nothing", "body", "odd", "a")
    np.testing.assert_array_equal(found.parameters, [5, nan, nan, nan, 2**53])
    np.testing.assert_array_equal(found.layers, [12, nan, 6, 3, nan])
    np.testing.assert_array_equal(found.classification, [1, nan, 0, nan, nan])
    np.testing.assert_array_equal(found.modified, [then.timestamp(), nan, nan, nan, nan])


def test_a_family_without_scores_has_empty_columns(store: Store, fill: Fill) -> None:
    fill(checkpoints=[CheckpointDraft(family="f", name="a")])
    found = store.evidence("f")
    assert found.vanilla is None
    assert found.checkpoint_names == ("a",)
    for column in (found.parameters, found.layers, found.classification, found.modified):
        assert column.shape == (1,)
        assert column.dtype == np.float64
    whole = (found.checkpoint, found.target, found.protocol, found.seed)
    for column in (*whole, found.probed_checkpoint, found.probe_method, found.probe_protocol):
        assert column.shape == (0,)
        assert column.dtype == np.int64
    for column in (found.value, found.stderr, found.created, found.target_rows, found.probe_value):
        assert column.shape == (0,)
        assert column.dtype == np.float64


def test_the_catalogue_is_the_checkpoints_of_the_family_in_columns(store: Store, fill: Fill) -> None:
    fill(
        checkpoints=[
            CheckpointDraft(family="f", name="a", parameters=5),
            CheckpointDraft(family="g", name="x"),
            CheckpointDraft(family="f", name="b", license="mit"),
        ]
    )
    found = store.catalogue("f")
    assert [store.checkpoint(i).name for i in found.ids] == list(found.names) == ["a", "b"]
    assert found.parameters == (5, None)
    assert found.licenses == (None, "mit")


def test_targets_are_listed_whole(store: Store, fill: Fill) -> None:
    fill(targets=[TargetDraft(name=f"t{i}") for i in range(60)])
    assert [t.name for t in store.all_targets()] == [f"t{i}" for i in range(60)]
    assert store.target(store.target_named("t7").id).name == "t7"


def test_a_new_target_and_a_detail_that_becomes_known_can_be_told(store: Store, fill: Fill) -> None:
    seen = [store.target_details()]
    for target in (TargetDraft(name="x"), TargetDraft(name="y"), TargetDraft(name="x", train_size=9)):
        fill(targets=(target,))
        seen.append(store.target_details())
    assert len(set(seen)) == 4
    fill(replace(SCORE, target="x"), targets=(TargetDraft(name="x", train_size=9),))
    assert store.target_details() == seen[-1], "scores are no detail of a target"
