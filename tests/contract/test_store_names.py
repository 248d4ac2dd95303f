"""The store's contract: names looked up many at a time, on every dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from headstart.entities import CheckpointDraft, TargetDraft
from headstart.errors import InvalidInput
from headstart.store import bulk

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.store import Store


@pytest.fixture(autouse=True)
def stocked(fill: Callable[..., Any]) -> None:
    fill(
        checkpoints=[
            CheckpointDraft(family="one", name="a"),
            CheckpointDraft(family="two", name="a", revision="2"),
            CheckpointDraft(family="two", name="a", revision="1"),
            CheckpointDraft(family="two", name="b", parameters=5, details={"by": "x"}),
        ],
        targets=[TargetDraft(name="t"), TargetDraft(name="T"), TargetDraft(name="é%_")],
    )


def test_a_name_brings_every_checkpoint_that_has_it(store: Store) -> None:
    found = store.checkpoints_named(["b", "a", "nobody", "a"])
    assert [(one.family, one.revision) for one in found["a"]] == [("one", ""), ("two", "2"), ("two", "1")]
    assert found["b"] == (store.checkpoint(found["b"][0].id),)
    assert set(found) == {"a", "b"}
    assert store.checkpoints_named([]) == {}


def test_target_names_are_exact(store: Store) -> None:
    found = store.targets_named(["t", "é%_", "%", "nothing"])
    assert {name: target.name for name, target in found.items()} == {"t": "t", "é%_": "é%_"}
    assert found["t"] == store.target_named("t")
    assert store.targets_named([]) == {}


def test_more_names_than_one_query_takes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "CHUNK", 2)
    names = ["a", "b", "c", "d", "e"]
    assert {name: len(found) for name, found in store.checkpoints_named(names).items()} == {"a": 3, "b": 1}
    assert set(store.targets_named(["t", "x", "T", "y", "é%_"])) == {"t", "T", "é%_"}


@pytest.mark.parametrize("name", ["a\0", "\ud800", "x" * 1001])
def test_names_that_no_database_can_hold(store: Store, name: str) -> None:
    for verb in (store.checkpoints_named, store.targets_named):
        with pytest.raises(InvalidInput):
            verb(["a", name])
