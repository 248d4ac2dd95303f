"""Checkpoints found by what they are pinned to, on each dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from headstart.entities import CheckpointDraft

if TYPE_CHECKING:
    from collections.abc import Callable

    from headstart.entities import Import
    from headstart.store import Store

PIN = "sha256:a_1"


def test_the_pin_is_the_revision_or_in_the_details(store: Store, fill: Callable[..., Import]) -> None:
    fill(
        checkpoints=[
            CheckpointDraft(family="f", name="completed", details={"revision": PIN}),
            CheckpointDraft(family="g", name="registered", revision=PIN, details={"revision": PIN}),
            CheckpointDraft(family="f", name="bare", revision=PIN),
            CheckpointDraft(family="f", name="another", details={"revision": "sha256:aB1"}),
            CheckpointDraft(family="f", name="in capitals", details={"revision": PIN.upper()}),
            CheckpointDraft(family="f", name="longer", details={"revision": PIN + "2"}),
            CheckpointDraft(family="f", name="elsewhere", details={"tags": [PIN]}),
            CheckpointDraft(family="f", name="at another", revision="c1", details={"revision": PIN}),
            CheckpointDraft(family="f", name="of none"),
        ]
    )
    found = store.checkpoints_pinned(PIN)
    assert {one.name for one in found} == {"completed", "registered", "bare"}
    assert [one.id for one in found] == sorted(one.id for one in found)
    assert store.checkpoints_pinned("sha256:b") == ()


@pytest.mark.parametrize("text", ["a\0", "\udcff"])
def test_texts_that_a_database_cannot_take_out_of_json(
    store: Store, fill: Callable[..., Import], text: str
) -> None:
    fill(
        checkpoints=[
            CheckpointDraft(family="f", name="odd", details={"tags": [text]}),
            CheckpointDraft(family="f", name="known", details={"revision": PIN}),
        ]
    )
    assert [one.name for one in store.checkpoints_pinned(PIN)] == ["known"]
