"""Verdicts on descent, from what a pass over the weights would have found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from headstart.entities import Lineage
from headstart.regions.lineage import copies, verdict
from headstart.regions.task_vector import TaskVector, TensorFacts

RNG = np.random.default_rng(0)
VANILLA = {f"layer.{n}.weight": RNG.standard_normal((40, 30)) for n in range(9)}
NORMS = {"norm.weight": 1 + 0.01 * RNG.standard_normal(30), "norm.bias": 0.01 * RNG.standard_normal(30)}


def found(moved: dict[str, np.ndarray], **changes: Any) -> TaskVector:
    """The task vector of these weights, as far as a verdict looks."""
    base = VANILLA | NORMS
    norm = np.linalg.norm
    tensors = tuple(
        TensorFacts(
            name=name,
            shape=values.shape,
            norm=float(norm(values)),
            vanilla_norm=float(norm(base[name])),
            delta_norm=float(norm(values - base[name])),
        )
        for name, values in moved.items()
    )
    sums = [
        sum(x**2 for x in column) ** 0.5
        for column in zip(*((t.delta_norm, t.vanilla_norm) for t in tensors), strict=True)
    ]
    made = TaskVector(
        sketch=np.zeros(4, np.float32),
        norm=sums[0] if sums else 0.0,
        vanilla_norm=sums[1] if sums else 0.0,
        tensors=tensors,
        left_out=(),
        matched_elements=sum(t.elements for t in tensors),
        vanilla_tensors=len(base),
        outside=0,
        identical=False,
        dtype="F32",
        vocabulary=1.0,
        architecture="bert",
        vanilla_architecture="bert",
    )
    return replace(made, **changes)


def near(share: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: x + share * x.std() * rng.standard_normal(x.shape) for name, x in (VANILLA | NORMS).items()}


def unrelated(scale: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    other = {name: scale * rng.standard_normal(x.shape) for name, x in VANILLA.items()}
    return other | {"norm.weight": 1 + 0.01 * rng.standard_normal(30), "norm.bias": NORMS["norm.bias"]}


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3])
def test_a_finetune_is_verified_with_its_distance(share: float) -> None:
    told = verdict(found(near(share)))
    assert told.state is Lineage.VERIFIED
    assert "Over 9 matrices the median cosine" in told.reason
    percent = float(told.reason.partition(", at ")[2].partition("%")[0])
    assert percent == pytest.approx(100 * share, rel=0.05)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_weights_of_another_pretraining_are_contradicted_whatever_their_size(scale: float) -> None:
    told = verdict(found(unrelated(scale)))
    assert told.state is Lineage.CONTRADICTED
    assert "another pretraining" in told.reason
    assert "over 9 matrices" in told.reason


def test_the_distance_of_unrelated_weights_of_one_size_is_the_root_of_two() -> None:
    matrix = found(unrelated(1.0)).tensors[0]
    assert matrix.relative == pytest.approx(np.sqrt(2), abs=0.1)
    assert matrix.cosine == pytest.approx(0.0, abs=0.1)


def test_a_tensor_that_was_drawn_anew_is_a_note() -> None:
    moved = near(0.02) | {"layer.3.weight": unrelated(1.0)["layer.3.weight"]}
    told = verdict(found(moved))
    assert told.state is Lineage.VERIFIED
    assert "1 of them, such as layer.3.weight, have nothing to do with the vanilla's" in told.reason


def test_a_norm_that_is_extreme_is_a_note() -> None:
    told = verdict(found(near(0.8)))
    assert told.state is Lineage.VERIFIED
    assert "norms of the vanilla away, which is far" in told.reason
    assert "far" not in verdict(found(near(0.1))).reason


def test_names_that_match_nothing_are_contradicted() -> None:
    left_out = (("encoder.weight", "the checkpoint lacks it"),)
    for moved in ({}, {"norm.weight": NORMS["norm.weight"]}):
        told = verdict(found(moved, left_out=left_out, outside=11))
        assert told.state is Lineage.CONTRADICTED
        assert f"Of the 11 tensors of the vanilla's body it has {len(moved)}" in told.reason
        assert "encoder.weight" in told.reason
    other = verdict(found({}, architecture="gpt2"))
    assert "it is a gpt2, the vanilla a bert" in other.reason
    assert verdict(found({}, vanilla_tensors=0)).state is Lineage.CONTRADICTED


def test_another_architecture_of_the_same_weights_is_a_finetune() -> None:
    assert verdict(found(near(0.02), architecture="camembert")).state is Lineage.VERIFIED


def test_another_vocabulary_is_contradicted() -> None:
    told = verdict(found(near(0.02), vocabulary=0.031))
    assert told.state is Lineage.CONTRADICTED
    assert "3.1%" in told.reason
    for share in (None, 0.97, 1.0):
        assert verdict(found(near(0.02), vocabulary=share)).state is Lineage.VERIFIED


def test_untouched_weights_are_verified_and_have_no_task_vector() -> None:
    copy = verdict(found(VANILLA | NORMS, identical=True))
    assert copy.state is Lineage.VERIFIED
    assert "untouched copy. It has no task vector" in copy.reason
    head = verdict(found(VANILLA | NORMS, identical=True, outside=2, dtype="BF16"))
    assert head.state is Lineage.VERIFIED
    assert "as BF16 holds them; the 2 tensors beside its body, as of a head, are its own" in head.reason


def test_what_was_left_out_is_told() -> None:
    told = verdict(found(near(0.02), left_out=(("pooler.bias", "the vanilla lacks it"), ("x", "y"))))
    assert told.reason.endswith("Left out: pooler.bias (the vanilla lacks it), and 1 more.")


def test_zeros_give_a_verdict() -> None:
    zero = {name: np.zeros_like(x) for name, x in VANILLA.items()}
    told = verdict(found(zero | NORMS))  # as of a file that was never filled
    assert told.state is Lineage.CONTRADICTED
    assert "median cosine to the vanilla's is 0.000" in told.reason
    one = dict(list(zero.items())[:1])
    assert verdict(found(near(0.02) | one)).state is Lineage.VERIFIED
    assert found({}).relative == 0.0


def test_facts_travel_as_json() -> None:
    made = found(near(0.1), left_out=(("a", "b"),))
    again = TaskVector.of(made.sketch, made.facts())
    assert replace(again, sketch=made.sketch) == made


def test_copies_are_found_whatever_their_order() -> None:
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((6, 500)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)  # alike in norm, and no copies
    sketches = np.stack(
        [
            rows[0],
            rows[1],
            rows[2],
            rows[0] * np.float32(1 + 1e-6),
            0 * rows[3],
            0 * rows[4],
            rows[2],
            rows[0],
        ]
    )
    assert copies(sketches) == ((0, 3, 7), (2, 6))
    assert copies(rows) == ()
    assert copies(rows[:0]) == ()
