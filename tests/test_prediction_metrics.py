"""Metrics of predictions beside the truth."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.metrics import METRICS, accuracy, macro_f1, matthews, metric_error, metrics_for, predictions
from headstart.probe import accuracy_error

TRUTH = np.array([0, 0, 0, 0, 1, 1, 1, 5])
SAID = np.array([0, 0, 0, 1, 1, 1, 0, 5])


def test_a_known_table() -> None:
    assert accuracy(SAID, TRUTH) == 6 / 8
    assert macro_f1(SAID, TRUTH) == pytest.approx((6 / 8 + 4 / 6 + 1) / 3)
    n, hits, across = 8, 6, 4 * 4 + 3 * 3 + 1
    assert matthews(SAID, TRUTH) == pytest.approx((n * hits - across) / (n**2 - across))
    assert matthews(np.zeros(8, np.int64), TRUTH) == 0.0


def test_two_classes_give_the_textbook_matthews() -> None:
    truth, said = np.array([1, 1, 1, 0, 0, 0, 0]), np.array([1, 1, 0, 0, 0, 1, 0])
    true_pos, true_neg, false_pos, false_neg = 2, 3, 1, 1
    top = true_pos * true_neg - false_pos * false_neg
    under = np.sqrt(
        (true_pos + false_pos) * (true_pos + false_neg) * (true_neg + false_pos) * (true_neg + false_neg)
    )
    assert matthews(said, truth) == pytest.approx(top / under)


def test_the_names_of_classes_change_nothing() -> None:
    other = np.array([3, 0, 9, 9, 9, 7])
    for metric in metrics_for(classes=True).values():
        assert metric(other[SAID], other[TRUTH]) == pytest.approx(metric(SAID, TRUTH))


def test_the_error_of_a_share_is_in_closed_form_and_others_are_drawn() -> None:
    assert metric_error("accuracy", SAID, TRUTH, 0) == accuracy_error((SAID == TRUTH).astype(float))
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    said = np.where(rng.random(400) < 0.8, truth, 1 - truth)
    drawn = metric_error("macro_f1", said, truth, 0)
    assert drawn == pytest.approx(np.sqrt(0.8 * 0.2 / 400), rel=0.25)
    assert drawn == metric_error("macro_f1", said, truth, 0)


def test_outputs_become_predictions() -> None:
    assert predictions(np.array([[0.1, 0.3], [2.0, -1.0]]), classes=True).tolist() == [1, 0]
    assert predictions(np.array([[0.5], [1.5]], dtype=np.float32), classes=False).tolist() == [0.5, 1.5]
    assert set(METRICS) == {"accuracy", "macro_f1", "matthews", "spearman", "pearson"}
