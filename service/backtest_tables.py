"""A backtest as tables, in the terminal or in Markdown."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from service import tables

if TYPE_CHECKING:
    from headstart.recommend.backtest.report import Comparison, Estimate, Line, Reliability, Report


class Sheet(NamedTuple):
    """One table; all columns but the first hold numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]
    note: str = ""  # under the table


def show(report: Report) -> None:
    """Print every table, then what could not be measured and how long it took."""
    for sheet in sheets(report):
        tables.show(sheet.title, sheet.columns, sheet.rows, right=sheet.columns[1:])
        if sheet.note:
            tables.say(f"{sheet.note}\n")
    for note in report.notes:
        tables.say(note)
    tables.say(_took(report))


def markdown(report: Report) -> str:
    """Every table as GitHub Markdown."""
    parts = []
    for title, columns, rows, note in sheets(report):
        lines = [columns, ("---",) * len(columns), *rows]
        body = "\n".join(f"| {' | '.join(cell or '–' for cell in line)} |" for line in lines)
        under = f"\n\\{note}\n" if note else ""  # escaped: a line that begins with a star is a list
        parts.append(f"**{title}**\n\n{body}\n{under}")
    return "\n".join([*parts, *(f"{note}\n" for note in report.notes), _took(report)])


def sheets(report: Report) -> list[Sheet]:
    """What the report holds, in the order of the protocols; what was asked at several steps side by side."""
    made = [_sizes(report)]
    honesty = []
    if report.reliability:
        honesty = [_coverage(report.reliability), _beats(report.reliability[-1]), _places(report.reliability)]
    series: dict[tuple[str, str], list[Comparison]] = defaultdict(list)
    for one in report.comparisons:
        series[one.protocol, one.name if one.step is not None else f"{one.name} {one.measure}"].append(one)
    for (protocol, _), asked in series.items():
        if protocol > "p5":
            made, honesty = made + honesty, []
        made.append(_compared(asked[0]) if asked[0].step is None else _stepped(asked))
    return made + honesty


def _sizes(report: Report) -> Sheet:
    rows = tuple(
        (one.family, str(one.checkpoints), str(one.measured), str(one.targets), str(one.cells))
        for one in report.families
    )
    return Sheet("Evidence", ("family", "checkpoints", "finetuned", "targets", "measured gains"), rows)


def _compared(one: Comparison) -> Sheet:
    """A method a row: by family, over all of them, and how far the leading method is above it."""
    families = tuple(one.lines[0].by_family)
    rows = tuple(
        (
            line.method,
            *(_of_family(line, one, family) for family in families),
            _with_interval(line.overall, one.measure),
            _lead(line, one),
        )
        for line in one.lines
    )
    better = ", less is better" if one.less_is_better else ""
    columns = (one.measure, *families, "mean [95 %]", f"{one.lead} minus it [95 %]")
    marked = any(_beats_lead(line, one, family) for line in one.lines for family in families)
    note = f"* significantly better than {one.lead} in this family (95 %)" if marked else ""
    return Sheet(f"{one.protocol.upper()}. {one.name}{better}", columns, rows, note)


def _of_family(line: Line, one: Comparison, family: str) -> str | None:
    value = _number(line.by_family[family], one.measure)
    return f"{value} *" if _beats_lead(line, one, family) else value


def _beats_lead(line: Line, one: Comparison, family: str) -> bool:
    """Whether the whole interval of lead minus this method lies on this method's side of zero."""
    lead = line.lead_by_family.get(family)
    if lead is None:
        return False
    return lead.low > 0 if one.less_is_better else lead.high < 0


def _stepped(asked: list[Comparison]) -> Sheet:
    """A method a row and a step a column: the mean over families, and how far the lead is above it.

    The lead's own row has the interval of its mean instead.
    """
    first = asked[0]
    methods = tuple(dict.fromkeys(line.method for one in asked for line in one.lines))
    lines = {(one.step, line.method): (one, line) for one in asked for line in one.lines}
    rows = tuple((method, *(_of_step(lines.get((one.step, method))) for one in asked)) for method in methods)
    columns = (first.measure, *(f"k = {one.step}" for one in asked))
    compared = f"; of the others, {first.lead} minus it [95 %]" if len(methods) > 1 else ""
    title = f"{first.protocol.upper()}. {first.name} ({first.lead} [95 %]{compared})"
    return Sheet(title, columns, rows)


def _of_step(found: tuple[Comparison, Line] | None) -> str | None:
    if found is None:
        return None
    one, line = found
    if line.method == one.lead:
        return _with_interval(line.overall, one.measure)
    value, lead = _number(line.overall, one.measure), _lead(line, one)
    return value if not lead else f"{value} ({lead})"


def _coverage(found: tuple[Reliability, ...]) -> Sheet:
    rows = tuple(
        (
            one.family or "all",
            str(one.cells),
            f"{one.covers_80:.3f}",
            f"{one.covers_95:.3f}",
            f"{one.width_80:.2f}",
            f"{one.ties:.3f}",
        )
        for one in found
    )
    columns = ("family", "cells", "in the 80 % interval", "in the 95 % interval", "80 %, points wide", "ties")
    return Sheet("P5. A held-out cell: do the intervals hold it?", columns, rows)


def _places(found: tuple[Reliability, ...]) -> Sheet:
    """A place a row: coverage in each family and in all, and measured minus expected gain in all."""
    last = found[-1].places
    rows = tuple(
        (
            one.name,
            str(one.cells),
            *(f"{family.places[k].covers_80:.3f}" for family in found),
            f"{one.expected:+.2f}",
            f"{one.measured - one.expected:+.2f} ± {1.96 * one.error_stderr:.2f}",
        )
        for k, one in enumerate(last)
    )
    columns = (
        "by expected gain on the target",
        "cells",
        *(f"in the 80 %, {one.family or 'all'}" for one in found),
        "expected, points",
        "measured minus it",
    )
    return Sheet("P5. Does the forecast hold at the top of the list as well?", columns, rows)


def _beats(found: Reliability) -> Sheet:
    rows = tuple((f"{one.forecast:.2f}", f"{one.rate:.2f}", str(one.count)) for one in found.beats)
    columns = ("forecast, mean", "beat the vanilla", "cells")
    return Sheet("P5. P(beats the vanilla) beside what happened, a tie counted half", columns, rows)


def _number(estimate: Estimate | None, measure: str) -> str | None:
    return None if estimate is None else _digits(estimate.value, measure)


def _with_interval(estimate: Estimate | None, measure: str) -> str | None:
    if estimate is None:
        return None
    low, high = (_digits(one, measure) for one in (estimate.low, estimate.high))
    return f"{_digits(estimate.value, measure)} [{low}, {high}]"


def _lead(line: Line, one: Comparison) -> str:
    """Empty for the leading method itself."""
    if line.lead is None:
        return ""
    value, low, high = (
        _digits(number, one.measure, sign="+") for number in (line.lead.value, line.lead.low, line.lead.high)
    )
    return f"{value} [{low}, {high}]"


def _digits(value: float, measure: str, sign: str = "") -> str:
    """Points to hundredths, correlations and scores to thousandths."""
    return f"{value:{sign}.{2 if measure.endswith('points') and 'CRPS' not in measure else 3}f}"


def _took(report: Report) -> str:
    """Seconds of processor time, by what for."""
    spent = ", ".join(
        f"{'fits' if what == 'fit' else what} {seconds:.1f} s" for what, seconds in report.seconds.items()
    )
    return f"Processor time: {spent or 'none'}. Seed {report.seed}."
