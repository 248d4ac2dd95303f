"""How task vectors are read: once, a piece at a time, kept, stopped, and of files that are broken."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from headstart.entities import Lineage
from headstart.failures import CheckpointNotFound, NonFinite, Refused
from headstart.regions.lineage import verdict
from tests.worker.test_task_vectors import DIMS, WEIGHTS, WORDS, change, moved, read, root, saved
from tests.worker.tiny_checkpoints import make_tiny
from worker import task_vectors, tensor_names
from worker.cache import Cache
from worker.checkpoints import read_folder
from worker.configs import read_config
from worker.pieces import Body
from worker.task_vectors import task_vector
from worker.weights import Weights

if TYPE_CHECKING:
    from pathlib import Path

    import transformers

    from tests.worker.test_task_vectors import State

__all__ = ["root", "saved"]  # fixtures


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_numbers_without_measure_are_told_by_name(root: Path, value: float) -> None:
    def spoilt(state: State) -> State:
        name = next(name for name in state if name.endswith(WORDS))
        state[name][3, 3] = value
        return state

    change(root / "tuned", spoilt)
    with pytest.raises(NonFinite, match=f"{WORDS} of the checkpoint holds numbers that are NaN"):
        read(root / "tuned", root / "vanilla")
    change(root / "vanilla", spoilt)
    make_tiny("bert", root / "tuned")
    with pytest.raises(NonFinite, match="of the vanilla"):
        read(root / "tuned", root / "vanilla")


def test_a_file_that_was_cut_short_is_refused(root: Path) -> None:
    raw = (root / "tuned" / WEIGHTS).read_bytes()
    (root / "tuned" / WEIGHTS).write_bytes(raw[: len(raw) * 2 // 3])
    with pytest.raises(Refused, match=r"model\.safetensors is broken"):
        read(root / "tuned", root / "vanilla")
    (root / "vanilla" / WEIGHTS).unlink()
    with pytest.raises(CheckpointNotFound):
        read(root / "tuned", root / "vanilla")


def test_it_is_read_once_and_found_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(root / "cache", 1 << 30)
    made = read(root / "tuned", root / "vanilla", cache=cache)
    with monkeypatch.context() as patch:
        patch.setattr(task_vectors, "Body", None)  # would be called
        again = read(root / "tuned", root / "vanilla", cache=cache)
        with pytest.raises(TypeError):
            read(root / "tuned", root / "vanilla", cache=cache, seed=1)
    assert again.sketch.tolist() == made.sketch.tolist()
    assert again.facts() == made.facts()
    assert again.sketch.dtype == np.float32
    other = read(root / "tuned", root / "vanilla", cache=cache, seed=1)
    assert other.sketch.tolist() != made.sketch.tolist()
    change(root / "tuned", lambda state: moved(state, seed=3))
    assert read(root / "tuned", root / "vanilla", cache=cache).norm > made.norm


def test_every_number_is_read_once_and_a_piece_at_a_time(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[object, list[tuple[str, int, int]]] = {}
    piece = Body.piece

    def counted(body: Body, name: str, start: int, stop: int, buffer: bytearray) -> torch.Tensor:
        asked.setdefault(id(body), []).append((name, start, stop))
        return piece(body, name, start, stop, buffer)

    monkeypatch.setattr(Body, "piece", counted)
    found = read(saved / "tuned", saved / "vanilla")
    for parts in asked.values():
        assert sum(stop - start for _, start, stop in parts) == found.matched_elements
        assert len(set(parts)) == len(parts)
        assert max(stop - start for _, start, stop in parts) == DIMS
        assert parts == sorted(parts)
    assert len(asked) == 2


def test_progress_is_told_and_may_stop_it(root: Path) -> None:
    class Stopped(Exception):
        pass

    seen: list[float] = []

    def stop(fraction: float, stage: str, message: str) -> None:
        seen.append(fraction)
        if fraction > 0.5:
            raise Stopped

    files = [read_folder(root / name, roots=[root], pickles=False) for name in ("tuned", "vanilla")]
    cache = Cache(root / "cache", 1 << 30)
    with pytest.raises(Stopped):
        task_vector(*files, dims=64, report=stop, cache=cache)
    assert seen == sorted(seen)
    assert len(seen) > 20
    assert not list(cache.root.rglob("sketch.f32"))


def test_a_pickle_may_hold_parameters(root: Path) -> None:
    plain = read(root / "tuned", root / "vanilla")
    state = load_file(root / "tuned" / WEIGHTS)
    (root / "tuned" / WEIGHTS).unlink()
    torch.save(
        {name: torch.nn.Parameter(x) for name, x in state.items()}, root / "tuned" / "pytorch_model.bin"
    )
    assert read(root / "tuned", root / "vanilla").sketch.tolist() == plain.sketch.tolist()


def test_weights_of_nothing_but_zeros_are_no_finetunes(root: Path) -> None:
    change(root / "tuned", lambda state: {name: torch.zeros_like(x) for name, x in state.items()})
    told = verdict(read(root / "tuned", root / "vanilla"))
    assert told.state is Lineage.CONTRADICTED
    assert "cosine to the vanilla's is 0.000, at 1.00 of their norm" in told.reason


def test_a_body_is_laid_out_once_for_configurations_that_differ_in_labels_alone(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid_out = tensor_names._laid_out
    asked = []

    def counted(config: transformers.PretrainedConfig) -> transformers.PreTrainedModel:
        asked.append(config.num_labels)
        return laid_out(config)

    monkeypatch.setattr(tensor_names, "_known", {})
    monkeypatch.setattr(tensor_names, "_laid_out", counted)
    read(saved / "tuned", saved / "vanilla")
    assert len(asked) == 1
    again = make_names(saved / "vanilla", layers=2)
    assert len(asked) == 2
    assert again < make_names(saved / "vanilla", layers=3)


def make_names(folder: Path, layers: int) -> int:
    weights = Weights([folder / WEIGHTS])
    config = read_config(folder, weights.shapes)
    config.num_hidden_layers = layers
    return len(tensor_names.body_names(weights, config))
