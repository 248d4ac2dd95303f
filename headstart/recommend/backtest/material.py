"""The evidence of a family for the backtest: what was measured, and the ways of holding it out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from headstart.recommend.gains import compare
from headstart.recommend.probes import probe_covariate, reference

if TYPE_CHECKING:
    from collections.abc import Collection

    from jaxtyping import Bool, Float, Int

    from headstart.recommend.evidence import FamilyEvidence

PATCHES = (0, 0, 0, 1, 2, 3, 6, 12, 24, 35)  # cells that a checkpoint keeps where measurements are patchy
WELL_MEASURED = 20  # targets, or half of the family's: from here on a mean gain is taken for the truth


# The columns of the evidence by what a row of them is: a checkpoint, a finetune score, a probe score.
CATALOGUE = ("checkpoint_ids", "parameters", "layers", "classification", "modified")
FINETUNES = ("checkpoint", "target", "protocol", "seed", "value", "stderr", "rows_tested", "created")
PROBED = (
    "probed_checkpoint", "probed_target", "probe_method", "probe_protocol", "probe_value", "probe_stderr",
    "probe_created",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Material:
    """One family: its evidence, and the gains measured in it."""

    evidence: FamilyEvidence
    gains: Float[np.ndarray, "C T"]  # points; NaN: not measured, and the vanilla's row
    noise: Float[np.ndarray, "T"]  # seed noise of one run, points; NaN: the vanilla was never run
    probe: Float[np.ndarray, "C"]  # reference probe, standard deviations over the vanilla; NaN: none
    train_sizes: Float[np.ndarray, "T"]  # rows to train on; NaN: unknown
    classes: Float[np.ndarray, "T"]
    tasks: tuple[str, ...]  # "": unknown

    @property
    def measured(self) -> Bool[np.ndarray, "C T"]:
        """Where there is a gain."""
        return np.asarray(np.isfinite(self.gains))


def material_of(
    evidence: FamilyEvidence,
    train_sizes: Float[np.ndarray, "T"] | None = None,
    classes: Float[np.ndarray, "T"] | None = None,
    tasks: tuple[str, ...] | None = None,
) -> Material:
    """The evidence with its gains; facts of the targets that are not given are unknown."""
    vanilla, cells = compare(evidence)
    gains = np.full((len(evidence.checkpoint_ids), len(evidence.target_ids)), np.nan)
    gains[cells.checkpoint, cells.target] = cells.gain
    unknown = np.full(len(evidence.target_ids), np.nan)
    return Material(
        evidence=evidence,
        gains=gains,
        noise=vanilla.noise,
        probe=probe_covariate(evidence, reference(evidence)),
        train_sizes=unknown if train_sizes is None else train_sizes,
        classes=unknown if classes is None else classes,
        tasks=("",) * len(unknown) if tasks is None else tasks,
    )


def author(name: str) -> str:
    """Whose a checkpoint is: the part of its name before the slash, or all of it."""
    return name.split("/", maxsplit=1)[0]


def authors(evidence: FamilyEvidence) -> tuple[str, ...]:
    """The author of each checkpoint."""
    return tuple(author(name) for name in evidence.checkpoint_names)


def well_measured(gains: Float[np.ndarray, "C T"]) -> Int[np.ndarray, "n"]:
    """Checkpoints measured on WELL_MEASURED targets, or on half of those that anything was measured on."""
    known = np.isfinite(gains)
    enough = min(WELL_MEASURED, max(1, (int(known.any(axis=0).sum()) + 1) // 2))
    return np.flatnonzero(known.sum(axis=1) >= enough)


# -- holding out


def without_cells(evidence: FamilyEvidence, hidden: Bool[np.ndarray, "C T"]) -> FamilyEvidence:
    """The evidence without the candidates' finetune scores of these pairs; the vanilla's stay."""
    gone = hidden[evidence.checkpoint, evidence.target]
    if evidence.vanilla is not None:
        gone = gone & (evidence.checkpoint != evidence.vanilla)
    return replace(evidence, **{name: getattr(evidence, name)[~gone] for name in FINETUNES})


def without_target(evidence: FamilyEvidence, name: str) -> FamilyEvidence:
    """The evidence without the candidates' finetune scores on the target of this name."""
    hidden = np.zeros((len(evidence.checkpoint_ids), len(evidence.target_ids)), dtype=bool)
    hidden[:, [one == name for one in evidence.target_names]] = True
    return without_cells(evidence, hidden)


def without_authors(evidence: FamilyEvidence, gone: Collection[str]) -> FamilyEvidence:
    """The evidence without the finetune scores of these authors' checkpoints; the vanilla's stay."""
    hidden = np.zeros((len(evidence.checkpoint_ids), len(evidence.target_ids)), dtype=bool)
    hidden[[one in gone for one in authors(evidence)]] = True
    return without_cells(evidence, hidden)


def patchy(measured: Bool[np.ndarray, "C T"], rng: np.random.Generator) -> Bool[np.ndarray, "C T"]:
    """The cells to hide so that every measured checkpoint keeps a random n of PATCHES, at random."""
    hidden = np.zeros_like(measured)
    for row in np.flatnonzero(measured.any(axis=1)):
        kept = int(rng.choice(PATCHES))
        hidden[row, rng.permutation(np.flatnonzero(measured[row]))[kept:]] = True
    return hidden


def cut(material: Material, count: int, rng: np.random.Generator) -> Material:
    """A small family: the vanilla and `count` random of the well-measured checkpoints, and nothing else."""
    chosen = rng.permutation(well_measured(material.gains))[:count]
    vanilla = material.evidence.vanilla
    kept = np.sort(chosen if vanilla is None else np.append(chosen, vanilla))
    evidence = _only(material.evidence, kept)
    return material_of(evidence, material.train_sizes, material.classes, material.tasks)


def _only(evidence: FamilyEvidence, kept: Int[np.ndarray, "k"]) -> FamilyEvidence:
    """The evidence of these checkpoints, ascending."""
    position = np.full(len(evidence.checkpoint_ids), -1)
    position[kept] = np.arange(len(kept))
    finetunes, probes = position[evidence.checkpoint] >= 0, position[evidence.probed_checkpoint] >= 0
    columns = {name: getattr(evidence, name)[kept] for name in CATALOGUE}
    columns |= {name: getattr(evidence, name)[finetunes] for name in FINETUNES}
    columns |= {name: getattr(evidence, name)[probes] for name in PROBED}
    columns["checkpoint"] = position[columns["checkpoint"]]
    columns["probed_checkpoint"] = position[columns["probed_checkpoint"]]
    names = tuple(evidence.checkpoint_names[row] for row in kept)
    vanilla = None if evidence.vanilla is None else int(position[evidence.vanilla])
    return replace(evidence, **columns, checkpoint_names=names, vanilla=vanilla)
