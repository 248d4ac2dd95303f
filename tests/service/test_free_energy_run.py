"""Checkpoints along a run: their order, the choice, and the curve."""

from __future__ import annotations

import pytest

from service.free_energy_plot import places_of, run_png
from service.free_energy_run import Point, choose, in_order, point_of, short_names, step_of

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-500", 500),
        ("/runs/a/checkpoint-00500/", 500),
        ("step_20", 20),
        ("step20", 20),
        ("epoch=3-step=7", 7),
        ("me/mine-ckpt3", 3),
        ("500", 500),
        ("runs/9", 9),
        ("final", None),
        ("all-MiniLM-L6-v2", None),
        ("bert-L12", None),
        ("checkpoint-500-merged", None),
    ],
)
def test_steps_are_read_from_the_end_of_a_name(name: str, step: int | None) -> None:
    assert step_of(name) == step


def test_the_order_is_that_of_the_steps_and_then_as_given() -> None:
    names = ["final", "checkpoint-1000", "checkpoint-500", "best"]
    assert [names[at] for at in in_order(names)] == ["checkpoint-500", "checkpoint-1000", "final", "best"]


def test_paths_are_shown_by_their_last_part_where_that_tells_them_apart() -> None:
    assert short_names(["/a/c-1", "/a/c-2", "me/x"]) == ["c-1", "c-2", "me/x"]
    assert short_names(["/a/c-1", "/b/c-1"]) == ["/a/c-1", "/b/c-1"]


def point(name: str, value: float | None, loss: float | None = None, stderr: float | None = 1.0) -> Point:
    told = {} if loss is None else {"loss": {"value": loss, "stderr": None}}
    if value is None:
        return point_of(name, {"checkpoint": name, "state": "cancelled", "failure": None}, None)
    score = {"checkpoint": name, "value": value, "stderr": stderr, "quarantine": None, "provenance": told}
    return point_of(name, None, score)


def test_the_dumb_choices_stand_beside() -> None:
    def said(*points: Point) -> str:
        return choose(points).sentence

    a, b = point("a", 5.0, 0.1), point("b", 9.0, 0.2)
    assert said(b, a).endswith(
        "It is also the last checkpoint and the one of the least loss: free energy says nothing else."
    )
    assert said(a, b).endswith(
        "It is also the one of the least loss; the last checkpoint is b, 4.00 ± 1.41 nats above it."
    )
    worse = point("a", 5.0, 0.3)
    assert said(b, worse).endswith(
        "It is also the last checkpoint; the one of the least loss is b, 4.00 ± 1.41 nats above it."
    )
    assert said(worse, b).endswith(
        "The last checkpoint, also the one of the least loss, is b, 4.00 ± 1.41 nats above it."
    )
    c = point("c", 20.0, 0.25)
    assert said(b, worse, c).endswith(
        "The last checkpoint is c, 15.00 ± 1.41 nats above it; the one of the least loss is b, 4.00 ± 1.41 "
        "nats above it."
    )
    assert said(a, point("d", None)).startswith("Only a has a converged value")
    assert "the last checkpoint is d, which has no value" in said(a, b, point("d", None))
    assert said(point("d", None)).startswith("No checkpoint has a converged value")


def test_values_are_told_apart_by_their_errors() -> None:
    far, near, sure = point("far", 9.0), point("near", 6.0), point("sure", 6.0, stderr=0.1)
    best = point("best", 5.0, stderr=0.1)
    assert [one.name for one in choose([best, far, near, sure]).alike] == ["near"]
    assert choose([best, point("x", 9.0, stderr=None)]).alike[0].name == "x"  # nobody knows its error
    found = choose([far, best])
    assert found.above is not None
    assert found.above == pytest.approx((4.0, 1.005), abs=1e-3)
    assert found.orders_as_loss is None


def test_a_score_of_anybody_is_shown_as_far_as_it_tells() -> None:
    odd = {"loss": "low", "llc": {"value": float("nan")}, "trace": {"value": True}, "notes": "x"}
    odd["nl"] = {"value": 10**400}
    score = {"checkpoint": "a", "value": 1.0, "stderr": None, "quarantine": None, "provenance": odd}
    found = point_of("a", None, score)
    assert set(found.beside.values()) == {None}
    assert found.notes == []
    assert choose([found]).least_loss is None


def test_a_curve_is_drawn_of_whatever_there_is() -> None:
    points = [point("c-1", 5.0, 0.1), point("c-2", None), point("$x_5", 6.0, 0.2, stderr=None)]
    assert places_of(points) == [1, 2, 5]
    assert places_of([point("a", 1.0), point("b", 2.0)]) == [0, 1]
    for some in (points, [point("a_$", 1.0), point("b" * 99, None)], [point("d", None)]):
        assert run_png("films $", some, choose(some)).startswith(PNG)
