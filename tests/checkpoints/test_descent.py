"""What a checkpoint was tuned on, itself or on its way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from headstart.checkpoints.descent import source_of, tuned_on
from headstart.errors import NotFound
from tests.fake_bench import CHECKPOINT, TARGET

if TYPE_CHECKING:
    from headstart.entities import Checkpoint

RTE = replace(TARGET, name="rte", fingerprint="d1")


def of(identity: int, **details: Any) -> Checkpoint:
    return replace(CHECKPOINT, id=identity, details=details)


def find(*known: Checkpoint) -> Any:
    by_id = {one.id: one for one in known}

    def look_up(identity: int) -> Checkpoint:
        if identity not in by_id:
            raise NotFound("checkpoint", identity)
        return by_id[identity]

    return look_up


@pytest.mark.parametrize(
    ("details", "tuned"),
    [
        ({"finetuned_on": "rte"}, True),
        ({"finetuned_on": "RTE"}, True),
        ({"finetuned_on": "mnli"}, False),
        ({"finetuned_on": "my copy", "finetuned_on_fingerprint": "d1"}, True),
        ({"finetuned_on": "mnli", "finetuned_on_fingerprint": "d2"}, False),
        ({"finetuned_on": "mnli", "finetuned_on_fingerprint": None}, False),
        ({"datasets": ["rte"]}, True),
        ({"datasets": ["rte", "mnli"]}, False),
        ({}, False),
    ],
)
def test_by_the_rows_or_by_the_name(details: dict[str, Any], tuned: bool) -> None:
    assert tuned_on(of(1, **details), RTE, find()) is tuned


def test_a_target_without_rows_is_told_by_its_name_alone() -> None:
    assert not tuned_on(of(1, finetuned_on_fingerprint=None), replace(RTE, fingerprint=None), find())


def test_what_it_was_made_from_counts() -> None:
    tuned = of(1, finetuned_on="rte")
    child, mean = of(2, base_id=1, finetuned_on="wic"), of(3, centroid_of=[4, 2])
    everyone = find(tuned, child, mean, of(4))
    assert tuned_on(child, RTE, everyone)
    assert tuned_on(mean, RTE, everyone)
    assert not tuned_on(of(5, centroid_of=[4], base_id=4), RTE, everyone)


def test_rings_and_gaps_end() -> None:
    one, other = of(1, base_id=2), of(2, base_id=1, centroid_of=[1, 2, 99, "x"])
    assert not tuned_on(one, RTE, find(one, other))


def test_the_source_is_what_the_job_or_else_the_card_says() -> None:
    assert source_of(of(1, finetuned_on="mnli", datasets=["glue"])) == "mnli"
    assert source_of(of(1, datasets=["glue"])) == "glue"
    assert source_of(of(1, datasets=["glue", "snli"])) is None
    assert source_of(of(1)) is None
