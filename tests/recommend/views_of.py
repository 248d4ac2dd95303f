"""Views and joints by hand, for tests of choices and plans."""

from __future__ import annotations

from typing import Any

import numpy as np

from headstart.recommend.choice import Joint
from headstart.recommend.transform import KNOTS, Transform, Transforms
from headstart.recommend.views import View


def straight(slope: float = 1.0, offset: float = 0.0) -> Transform:
    """`slope` points per unit of z, wherever a test looks, and `offset` points at z = 0."""
    z = np.linspace(-40.0, 40.0, KNOTS)
    return Transform(offset + slope * z, z, slope)


def view_of(components: int = 1, *, slope: float = 1.0, **overrides: Any) -> View:
    """Components with straight transforms and plain numbers, a level of 50 points."""
    fields: dict[str, Any] = {
        "target": None,
        "probed": None,
        "weights": np.full(components, 1 / components),
        "level": 50.0,
        "level_stderr": 0.0,
        "noise": 0.5,
        "transforms": (straight(slope),) * components,
        "mean": np.zeros(components),
        "loadings": np.tile([0.6, 0.2, 0.1], (components, 1)),
        "uncertainty": np.tile(np.diag([0.05, 0.05, 0.04, 0.03]), (components, 1, 1)),
        "residual": np.full(components, 0.5),
        "repeatable": np.full(components, 0.6),
        "level_var": np.zeros(components),
        "explained": np.zeros(components),
    }
    fields |= overrides
    return View(**fields | {"transforms": Transforms(fields["transforms"])})


def joint_of(mean: Any, spread: Any, *, shared: Any = 0.0, level: Any = 0.0) -> Joint:
    """Rows by means and spreads, (n) or (n, K); what they share of (mu, s) is one number, like the level."""
    middle = np.atleast_2d(np.asarray(mean, dtype=float).T).T
    width = np.broadcast_to(np.atleast_2d(np.asarray(spread, dtype=float).T).T, middle.shape)
    common = np.stack([np.broadcast_to(one, middle.shape) for one in (shared, level)], axis=2)
    return Joint(middle, width.copy(), common)
