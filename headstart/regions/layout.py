"""The map: checkpoints of a family in two dimensions, the vanilla at the origin. Pure functions.

Cosines are small: task vectors of length 1 all lie about sqrt(2) apart, and a map of these distances is a
disc. Instead the part of the cosine that checkpoints share is drawn: row i of V sqrt(eigenvalue - 1), V the
leading eigenvectors. There a member of a region lies about sqrt(its cosine with the others) from the vanilla,
regions lie at right angles, and what is in no region lies near the vanilla. These distances, with the
vanilla's among them, are put into the plane by classical scaling (Torgerson 1952) and then by majorisation of
the raw stress (de Leeuw 1977): classical scaling alone lays the third region and all further ones on top of
each other. Distances are those of directions: how far a checkpoint has moved is its norm, told beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.linalg import spectrum

if TYPE_CHECKING:
    from jaxtyping import Float

STEPS = 60
LARGE, FEW = 400, 25  # beyond so many checkpoints so many steps: each costs n^2
STILL = 1e-4  # share of the stress that a step must gain


def coordinates(cosine: Float[np.ndarray, "n n"], regions: int) -> Float[np.ndarray, "n 2"]:
    """Positions on the map, from the cosine and the number of regions in it; at most about 1 from the origin.

    Deterministic: on each axis the checkpoint that is farthest out has a positive coordinate.
    """
    shared = _shared(cosine, max(regions, 2))
    points = np.vstack([np.zeros(shared.shape[1]), shared])  # the vanilla first
    wanted = _distances(points)
    plane = _majorise(_classical(wanted), wanted, FEW if len(points) > LARGE else STEPS)
    return _signed(plane[1:] - plane[0])


def _shared(cosine: Float[np.ndarray, "n n"], width: int) -> Float[np.ndarray, "n r"]:
    """The leading eigenvectors by the root of what their eigenvalue is beyond 1, a lone checkpoint's."""
    if len(cosine) == 0:
        return np.zeros((0, 1))
    values, vectors = spectrum(np.asarray(cosine, dtype=np.float64), width)
    return np.asarray(vectors * np.sqrt(np.maximum(values - 1, 0.0)))


def _distances(points: Float[np.ndarray, "n r"]) -> Float[np.ndarray, "n n"]:
    squares = np.einsum("ij,ij->i", points, points)
    return np.asarray(np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0.0)))


def _classical(distances: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n 2"]:
    """The two leading axes of the doubly centred squared distances; zeros where there are fewer."""
    squares = distances**2
    means = squares.mean(axis=0)
    values, vectors = spectrum(-0.5 * (squares - means - means[:, None] + means.mean()), 2)
    plane = np.zeros((len(distances), 2))
    plane[:, : len(values)] = vectors * np.sqrt(values)
    return plane


def _majorise(
    plane: Float[np.ndarray, "n 2"], wanted: Float[np.ndarray, "n n"], steps: int
) -> Float[np.ndarray, "n 2"]:
    """Guttman transforms: none raises the sum of (distance - wanted)^2."""
    before = np.inf
    for _ in range(steps):
        found = _distances(plane)
        stress = float(np.sum((found - wanted) ** 2))
        if before - stress <= STILL * before and before < np.inf:
            break
        before = stress
        ratio = np.divide(wanted, found, out=np.zeros_like(wanted), where=found > 1e-9)
        plane = (ratio.sum(axis=1)[:, None] * plane - ratio @ plane) / len(plane)
    return plane


def _signed(plane: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    if len(plane) == 0:
        return plane
    farthest = plane[np.argmax(np.abs(plane), axis=0), [0, 1]]
    return np.asarray(plane * np.where(farthest < 0, -1.0, 1.0))
