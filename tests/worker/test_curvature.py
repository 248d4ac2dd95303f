"""Second derivatives of a body's loss against the exact Hessian of one of a few hundred numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from headstart.workbench import LinearHead
from tests.worker.test_finetune import ignore, made, sentiment
from tests.worker.test_loss_chains import SPEC, gradient
from tests.worker.tiny_checkpoints import make_tiny
from worker.chain_subject import subject
from worker.curvature import bend, largest
from worker.loss_chains import loss_chains as run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from worker.chain_subject import Subject
    from worker.tuned import Inputs


@pytest.fixture
def tiny(tmp_path: Path) -> Inputs:
    """A body of a few hundred numbers."""
    sizes = {"hidden_size": 4, "num_attention_heads": 2, "intermediate_size": 4, "num_hidden_layers": 1}
    folder = make_tiny("bert", tmp_path / "tiny", max_position_embeddings=8, **sizes)
    inputs = made(tmp_path, folder)
    rows = sentiment(tmp_path / "few.parquet", {"train": 12, "validation": 2, "test": 2}, seed=3)
    return replace(inputs, rows=rows)


SMALL = replace(
    SPEC,
    head=LinearHead(weights=np.array([[1.0, -1], [0, 1], [2, 0], [-1, 1]], np.float32), bias=np.zeros(2)),
    most_rows=12,
    max_tokens=8,
    batch_rows=5,
)


def test_the_trace_is_that_of_the_exact_hessian(tiny: Inputs) -> None:
    """The Hessian by differences of gradients, in fp64 but for the head."""
    with subject(tiny, SMALL, ignore) as found:
        found.loss.body.backbone.double()
        centre = {name: one.double() for name, one in found.centre.items()}
        exact = replace(found, centre=centre)
        d = sum(one.numel() for one in centre.values())
        assert d < 300
        hessian = np.array([along(exact, unit(centre, k)) for k in range(d)])
        np.testing.assert_allclose(hessian, hessian.T, atol=1e-3 * np.abs(hessian).max())
        batches = [np.arange(5), np.arange(5, 10), np.arange(10, 12)]
        drawn = [bend(centre, exact.loss, batches, seed) for seed in range(64)]
        stderr = np.std(drawn) / 8
        assert np.mean(drawn) == pytest.approx(np.trace(hessian), abs=4 * stderr)
        off = hessian - np.diag(np.diag(hessian))
        assert np.var(drawn) == pytest.approx(2 * (off**2).sum(), rel=0.6)
        steep = largest(centre, exact.loss, [np.arange(12)] * 40, 0)
        eigenvalues = np.linalg.eigvalsh(hessian)
        assert steep == pytest.approx(np.abs(eigenvalues).max(), rel=0.02)
    told = run(tiny, replace(SMALL, trace_probes=30), ignore)
    assert told.dimension == d
    assert told.trace.mean() == pytest.approx(np.trace(hessian), abs=5 * np.std(told.trace) / math.sqrt(30))


def test_tensors_that_some_rows_do_not_read_count_for_nothing() -> None:
    def loss(moving: Mapping[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        return (moving["read"] ** 2).sum() + (0.0 if len(rows) < 3 else moving["seldom"].exp().sum())

    at = {"read": torch.ones(4), "seldom": torch.zeros(2)}
    assert bend(at, loss, [np.arange(2)], 0) == pytest.approx(8.0)
    assert bend(at, loss, [np.arange(3)], 0) == pytest.approx(10.0)


def test_the_largest_curvature_is_what_was_found_before_a_product_left_the_finite() -> None:
    def loss(moving: Mapping[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        return (moving["w"] ** 2).sum() * (1.0 if len(rows) < 3 else math.inf)

    at = {"w": torch.ones(4)}
    assert largest(at, loss, [np.arange(2), np.arange(3), np.arange(2)], 0) == pytest.approx(2.0)
    assert largest(at, loss, [np.arange(3)], 0) == 0.0


def unit(centre: dict[str, torch.Tensor], place: int) -> dict[str, torch.Tensor]:
    flat = torch.zeros(sum(one.numel() for one in centre.values()), dtype=torch.float64)
    flat[place] = 1.0
    parts = torch.split(flat, [one.numel() for one in centre.values()])
    return {name: part.view_as(one) for (name, one), part in zip(centre.items(), parts, strict=True)}


def along(found: Subject, way: dict[str, torch.Tensor], step: float = 1e-3) -> np.ndarray:
    """The Hessian times a vector, flat."""
    there, back = (gradient(found, {n: sign * step * v for n, v in way.items()}) for sign in (1, -1))
    return torch.cat([((there[n] - back[n]) / (2 * step)).flatten() for n in way]).numpy()
