"""What a study of a region could end with."""

from __future__ import annotations

from typing import Any


def estimate(value: float, width: float = 0.1) -> dict[str, float]:
    return {"value": value, "low": value - width, "high": value + width}


def study_result(**changes: Any) -> dict[str, Any]:
    places = [-0.5, 0.0, 0.5, 1.0, 1.5]
    kinds = {
        "vanilla": [0.69],
        "inside": [0.61, 0.63],
        "outside": [0.66, None],
        "hull": [0.6],
        "centroid": [0.59],
    }
    return {
        "family": "org/mini",
        "target": {"id": 1, "name": "rte", "task": "classification", "metric": "accuracy"},
        "region": 1,
        "loss": "nats a row",
        "level": 0.9,
        "names": {"4": "me/mnli-0", "5": "me/mnli-1"},
        "better": [
            {"a": "hull", "b": "outside", "points": [10, 4], **estimate(0.95, 0.05)},
            {"a": "inside", "b": "vanilla", "points": [3, 1], **estimate(0.875, 0.125)},
        ],
        "curve": {
            "positions": places,
            "excess": [estimate(one, 0.01) for one in (0.09, 0.0, -0.02, 0.0, 0.11)],
            "lines": 2,
            "left_out": 0,
            "below_both": estimate(1.0, 0.0),
        },
        "lines": [
            {"pair": [4, 5], "at": places, "loss": [0.7, 0.61, 0.6, 0.63, 0.72], "stderr": [0.01] * 5},
            {"pair": [4, 6], "at": places, "loss": [None] * 5, "stderr": [None] * 5},
        ],
        "points": [
            {"kind": kind, "ids": [4], "weights": [1.0], "loss": loss}
            for kind in kinds
            for loss in kinds[kind]
        ],
        "left_out": [
            {
                "kind": "outside",
                "ids": [9],
                "name": "me/broken",
                "failure": "Refused",
                "sentence": "It is cut.",
            }
        ],
    } | changes
