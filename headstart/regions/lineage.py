"""Whether a checkpoint descends from its family's vanilla, as its weights tell.

A finetune stays near its start: over its matrices the median cosine to the vanilla's is nearly 1. Finetunes
of a small encoder, on tasks of a few thousand to a hundred thousand rows, had medians above 0.99 and no
matrix below 0.97; they lay 0.02 norms of the vanilla away, at most 0.24 in one matrix. Weights of another
pretraining have nothing to do with the vanilla's, whatever the architecture: a cosine of about 0, which at
equal norms is a distance of sqrt(2). The line is drawn at UNRELATED, far from both. The cosine decides and
not the distance, since that depends on the norms too; the median decides, since what a few tensors have (a
pooler that was drawn anew, a table that was resized) says little; and matrices, since layer norms lie near
1 in every model.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from headstart.entities import Lineage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float32

    from headstart.regions.task_vector import TaskVector, TensorFacts

UNRELATED = 0.5  # median cosine of matrices below which weights are of another pretraining
MATCHED = 0.9  # share of the vanilla's tensors that a finetune of it has at least
SAME_TOKENS = 0.5  # share of common ids below which a vocabulary is another one
FAR = 0.5  # norms of the vanilla: a finetune this far away is an unusual one
COPY = 1e-4  # relative distance of two sketches up to which they are of one task vector


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of a checkpoint's descent."""

    state: Lineage
    reason: str  # a sentence, or a few, with the numbers


def verdict(found: TaskVector) -> Verdict:
    """Whether the checkpoint descends from the vanilla it was held against; every number is in the reason.

    Contradicted, the first that holds: most tensors have no counterpart (another architecture, renamed ones,
    another depth); most token ids mean other tokens; the weights have nothing to do with the vanilla's. An
    untouched copy is verified: it descends from the vanilla, and has no task vector.
    """
    return (
        _other_tensors(found)
        or _other_vocabulary(found)
        or _untouched(found)
        or _other_pretraining(found)
        or Verdict(Lineage.VERIFIED, " ".join([_near(found), *_notes(found)]))
    )


def copies(sketches: Float32[np.ndarray, "n dims"]) -> tuple[tuple[int, ...], ...]:
    """Groups of two and more whose sketches are equal up to rounding: one checkpoint saved several times.

    Rows in ascending order. Sketches of zeros (copies of the vanilla) are in no group.
    """
    norms = np.sqrt(np.einsum("nd,nd->n", sketches, sketches, dtype=np.float64))
    order = [row for row in np.argsort(norms, kind="stable").tolist() if norms[row] > 0]
    groups: list[list[int]] = []
    for row in order:
        for group in reversed(groups):
            if norms[row] - norms[group[0]] > COPY * norms[row]:
                groups.append([row])  # and all before it are smaller still
                break
            if np.linalg.norm(sketches[row] - sketches[group[0]]) <= COPY * norms[row]:
                group.append(row)
                break
        else:
            groups.append([row])
    return tuple(sorted(tuple(sorted(group)) for group in groups if len(group) > 1))


def _other_tensors(found: TaskVector) -> Verdict | None:
    matched = sum("pooler" not in one.name for one in found.tensors)
    if matched and matched >= MATCHED * found.vanilla_tensors:
        return None
    what = f"Of the {found.vanilla_tensors} tensors of the vanilla's body it has {matched} by name and shape"
    if found.architecture != found.vanilla_architecture:
        return _contradicted(
            f"{what}: it is a {found.architecture}, the vanilla a {found.vanilla_architecture}."
        )
    why = "".join(f", such as {name}, which was left out: {why}" for name, why in found.left_out[:1])
    return _contradicted(f"{what}: it has other layers, or its tensors have other names{why}.")


def _other_vocabulary(found: TaskVector) -> Verdict | None:
    if found.vocabulary is None or found.vocabulary >= SAME_TOKENS:
        return None
    return _contradicted(
        f"It has another vocabulary: of the token ids that both have, {found.vocabulary:.1%} name the "
        "token that the vanilla's do."
    )


def _untouched(found: TaskVector) -> Verdict | None:
    if not found.identical:
        return None
    rounded = "" if found.dtype == "F32" else f" as {found.dtype} holds them"
    beside = (
        f"; the {found.outside} tensors beside its body, as of a head, are its own"
        if found.outside
        else ": an untouched copy"
    )
    return Verdict(
        Lineage.VERIFIED,
        f"All {found.matched_elements:,} weights are the vanilla's{rounded}{beside}. It has no task vector.",
    )


def _other_pretraining(found: TaskVector) -> Verdict | None:
    cosines, distances = _compared(found)
    if not cosines or median(cosines) >= UNRELATED:
        return None
    return _contradicted(
        f"Its weights are of another pretraining: over {len(cosines)} matrices the median cosine to the "
        f"vanilla's is {median(cosines):.3f}, at {median(distances):.2f} of their norm (unrelated weights: "
        "about 0, at 1.41; finetunes: nearly 1)."
    )


def _near(found: TaskVector) -> str:
    cosines, distances = _compared(found)
    if not cosines:
        return f"{found.matched_elements:,} weights lie {found.relative:.2%} of the vanilla's norm from it."
    return (
        f"Over {len(cosines)} matrices the median cosine to the vanilla's is {median(cosines):.4f}, at "
        f"{median(distances):.2%} of their norm."
    )


def _notes(found: TaskVector) -> list[str]:
    """What is unusual, and yet no contradiction."""
    matrices = _matrices(found)
    strange = [one.name for one in matrices if one.cosine is not None and one.cosine < UNRELATED]
    notes = []
    if strange:
        notes.append(
            f"{len(strange)} of them, such as {strange[0]}, have nothing to do with the vanilla's: drawn "
            "anew, or of another vocabulary."
        )
    if found.relative > FAR:
        notes.append(
            f"As a whole it lies {found.relative:.2f} norms of the vanilla away, which is far for a finetune."
        )
    if found.left_out:
        name, why = found.left_out[0]
        more = f", and {len(found.left_out) - 1} more" if len(found.left_out) > 1 else ""
        notes.append(f"Left out: {name} ({why}){more}.")
    return notes


def _compared(found: TaskVector) -> tuple[list[float], list[float]]:
    """Cosines to the vanilla's, and distances in their norms, of the matrices that are not zero."""
    matrices = [one for one in _matrices(found) if one.cosine is not None]
    cosines = [one.cosine for one in matrices if one.cosine is not None]
    return cosines, [one.relative for one in matrices if one.relative is not None]


def _matrices(found: TaskVector) -> Sequence[TensorFacts]:
    """Tensors of two axes and more; all of them where there is none."""
    return [one for one in found.tensors if len(one.shape) > 1] or found.tensors


def _contradicted(reason: str) -> Verdict:
    return Verdict(Lineage.CONTRADICTED, reason)
