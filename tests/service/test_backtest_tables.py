"""What the tables of a backtest say of a difference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headstart.recommend.backtest.report import Comparison, Estimate, Line, Report
from service import backtest_tables

LEAD = Estimate(0.4, 0.3, 0.5)
NOTE = "* significantly better than headstart in this family (95 %)"


def compared(lead_by_family: dict[str, Estimate | None], *, less: bool = False) -> Comparison:
    """Of two methods in the families x and y; `lead_by_family` is headstart minus the other."""
    both: dict[str, Estimate | None] = {"x": Estimate(0.6, 0.5, 0.7), "y": LEAD}
    lead = Line(method="headstart", overall=LEAD, by_family=both, lead=None, lead_by_family={})
    other = Line(
        method="other",
        overall=LEAD,
        by_family=both,
        lead=Estimate(0.0, -0.1, 0.1),
        lead_by_family=lead_by_family,
    )
    return Comparison(
        protocol="p1",
        name="order",
        step=None,
        measure="Spearman",
        less_is_better=less,
        lead="headstart",
        lines=(lead, other),
    )


def report(*comparisons: Comparison) -> Report:
    return Report(families=(), seed=0, comparisons=comparisons, reliability=(), seconds={}, notes=())


@pytest.mark.parametrize("less", [False, True])
def test_a_method_better_than_the_lead_in_a_family_is_marked(
    less: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    below, above = Estimate(-0.2, -0.3, -0.1), Estimate(0.2, 0.1, 0.3)
    better, worse = (above, below) if less else (below, above)
    made = report(compared({"x": better, "y": worse}, less=less))
    text = backtest_tables.markdown(made)
    assert "| headstart | 0.600 | 0.400 |" in text
    assert "| other | 0.600 * | 0.400 |" in text
    assert f"|\n\n\\{NOTE}\n" in text
    backtest_tables.show(made)
    shown = capsys.readouterr().out
    assert shown.count("0.600 *") == 1
    assert NOTE in shown


@pytest.mark.parametrize("found", [Estimate(-0.2, -0.3, 0.0), Estimate(0.0, 0.0, 0.0), None])
def test_what_is_not_significant_is_not_marked(found: Estimate | None) -> None:
    text = backtest_tables.markdown(report(compared({"x": found, "y": None})))
    assert "| other | 0.600 | 0.400 |" in text
    assert "significantly" not in text


def test_the_lead_has_its_interval_at_every_step() -> None:
    steps = [replace(compared({}), step=k) for k in (1, 3)]
    (sheet,) = backtest_tables.sheets(report(*steps))[1:]
    assert sheet.title == "P1. order (headstart [95 %]; of the others, headstart minus it [95 %])"
    assert sheet.rows == (
        ("headstart", *["0.400 [0.300, 0.500]"] * 2),
        ("other", *["0.400 (+0.000 [-0.100, +0.100])"] * 2),
    )
