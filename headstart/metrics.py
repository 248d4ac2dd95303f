"""What a finetuned checkpoint is judged by: metrics of predictions beside the truth. Pure functions.

Classes are 0..K-1 and predicted as the largest of K outputs; a regression has one output. Every metric is at
most 1, and higher is better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.probe import accuracy_error
from headstart.ranks import CORRELATIONS, bootstrap_stderr

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float, Int

    Metric = Callable[[np.ndarray, np.ndarray], float]


def accuracy(said: Int[np.ndarray, "n"], truth: Int[np.ndarray, "n"]) -> float:
    """Share of the rows right."""
    return float(np.mean(said == truth))


def macro_f1(said: Int[np.ndarray, "n"], truth: Int[np.ndarray, "n"]) -> float:
    """Mean F1 over the classes that truth or prediction has."""
    table = _shares(said, truth)
    hits = np.diag(table)
    return float(np.mean(2 * hits / (table.sum(axis=0) + table.sum(axis=1))))


def matthews(said: Int[np.ndarray, "n"], truth: Int[np.ndarray, "n"]) -> float:
    """Matthews correlation; for more than two classes R_K (Gorodkin, Comput. Biol. Chem. 28, 2004).

    0.0 where truth or prediction is constant, which says nothing.
    """
    table = _shares(said, truth)
    of_said, of_truth = table.sum(axis=0), table.sum(axis=1)
    spread = (1 - of_truth @ of_truth) * (1 - of_said @ of_said)
    agreed = np.trace(table) - of_truth @ of_said
    return float(agreed / np.sqrt(spread)) if spread > 1e-12 else 0.0


def _shares(said: Int[np.ndarray, "n"], truth: Int[np.ndarray, "n"]) -> Float[np.ndarray, "k k"]:
    """Share of the rows by truth and prediction, over the classes that either has."""
    classes, codes = np.unique(np.concatenate([truth, said]), return_inverse=True)
    k, n = len(classes), len(truth)
    return np.asarray(np.bincount(codes[:n] * k + codes[n:], minlength=k**2).reshape(k, k) / n)


OF_CLASSES: dict[str, Metric] = {"accuracy": accuracy, "macro_f1": macro_f1, "matthews": matthews}
OF_VALUES: dict[str, Metric] = dict(CORRELATIONS)
METRICS: dict[str, Metric] = OF_CLASSES | OF_VALUES


def metrics_for(*, classes: bool) -> dict[str, Metric]:
    """The metrics that apply, the default first."""
    return OF_CLASSES if classes else OF_VALUES


def predictions(outputs: Float[np.ndarray, "n z"], *, classes: bool) -> np.ndarray:
    """The class of the largest output, or the one output itself."""
    return outputs.argmax(axis=1) if classes else outputs[:, 0].astype(np.float64)


def metric_error(metric: str, said: np.ndarray, truth: np.ndarray, seed: int) -> float:
    """Standard error of the metric over rows: in closed form for accuracy, else drawn (200 bootstraps)."""
    if metric == "accuracy":
        return accuracy_error((said == truth).astype(np.float64))
    return bootstrap_stderr(METRICS[metric], said, truth, np.random.default_rng((seed, 1)))
