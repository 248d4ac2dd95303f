"""A small family on disk: a vanilla saved as a masked language model, and three classifiers of its shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from headstart.entities import Checkpoint
from tests.worker.tiny_checkpoints import make_tiny
from worker.checkpoints import read_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from worker.checkpoints import CheckpointFiles


def make_family(root: Path) -> Path:
    """ROOT/vanilla, ROOT/m1, ROOT/m2, ROOT/m3."""
    make_tiny("bert", root / "vanilla")
    for number in (1, 2, 3):
        make_tiny("bert", root / f"m{number}", labels=2 + number, seed=number)
    return root


def files_of(folder: Path) -> CheckpointFiles:
    return read_folder(folder, roots=[folder], pickles=False)


def checkpoint(folder: Path, number: int, **changes: Any) -> Checkpoint:
    return Checkpoint(
        **{
            "id": number,
            "family": "org/base",
            "name": str(folder),
            "revision": "",
            "is_vanilla": number == 1,
            "parameters": 7,
            "license": "mit",
        }
        | changes
    )


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """Change the tensors of a folder."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def trio(folder: Path) -> list[Path]:
    return [folder / f"m{number}" for number in (1, 2, 3)]
