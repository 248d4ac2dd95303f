"""The orders that people use without a model, on the same cells. Higher is better; never NaN."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

    from headstart.recommend.backtest.material import Material

HEADSTART = "headstart"
STATIC = "headstart, static order"
PUBLISHED = "published mean gain"
STANDARDISED = "mean standardised gain"
PROBE = "linear probe"
SIZE = "size"
RANDOM = "random"
RERUNS = "vanilla again"


def mean_gain(gains: Float[np.ndarray, "C T"]) -> Float[np.ndarray, "C"]:
    """Mean of the raw gains that were measured, the published order; 0, the vanilla's, where none was."""
    known = np.isfinite(gains)
    return np.asarray(np.where(known, gains, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1))


def standardised_gain(gains: Float[np.ndarray, "C T"]) -> Float[np.ndarray, "C"]:
    """Mean of the gains that were measured, each target with mean 0 and standard deviation 1."""
    known = np.isfinite(gains)
    count = np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, gains - np.where(known, gains, 0.0).sum(axis=0) / count, 0.0)
    spread = np.sqrt((centred**2).sum(axis=0) / count)
    return np.asarray((centred / np.where(spread > 0, spread, 1.0)).sum(axis=1) / _at_least_one(known))


def probe(material: Material) -> Float[np.ndarray, "C"]:
    """The reference probe; its median where there is none."""
    return _filled(material.probe)


def size(material: Material) -> Float[np.ndarray, "C"]:
    """Number of parameters, more is better; the median where it is unknown."""
    return _filled(material.evidence.parameters)


def cold_orders(material: Material, seen: Float[np.ndarray, "C T"]) -> dict[str, Float[np.ndarray, "C"]]:
    """The orders of all checkpoints for a target nobody measured, from the cells that were seen elsewhere."""
    return {
        STANDARDISED: standardised_gain(seen),
        PUBLISHED: mean_gain(seen),
        PROBE: probe(material),
        SIZE: size(material),
    }


def _at_least_one(known: Float[np.ndarray, "C T"]) -> Float[np.ndarray, "C"]:
    return np.asarray(np.maximum(known.sum(axis=1), 1))


def _filled(values: Float[np.ndarray, "C"]) -> Float[np.ndarray, "C"]:
    known = values[np.isfinite(values)]
    return np.where(np.isfinite(values), values, np.median(known) if len(known) else 0.0)
