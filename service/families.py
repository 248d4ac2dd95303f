"""What an answer says of each family: its vanilla, how the target reacts in it, how far its evidence goes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import orjson

from headstart.recommend.fit import ENOUGH
from headstart.recommend.levels import NORMAL_QUANTILE_90
from headstart.recommend.sentence import drift_in_words, pooled_in_words, probes_in_words, static_in_words
from service.board import Facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from headstart.entities import Target
    from service.board import Board
    from service.snapshot import FamilySnapshot


def facts_of(board: Board, target: Target | None, others: Iterable[FamilySnapshot]) -> Facts:
    """The family's part of the answer, written once per board and target. `others`: all other families."""
    name = None if target is None else target.name
    facts = board.facts.get(name)
    if facts is None:
        notes = tuple(_notes(board, target, others))
        facts = board.facts[name] = Facts(orjson.dumps(_answer(board, target)), notes)
    return facts


def _answer(board: Board, target: Target | None) -> dict[str, Any]:
    family, view = board.family, board.view
    fitted, own = family.posterior, view.target
    rank = family.reaction_rank(board.sensitivity)
    told = view.noise == view.noise  # by own runs or by other targets; or else by the prior
    basis = "own" if own is not None else "others" if told else "prior"
    stands_on = len(view.weights) if told else 0
    return {
        "family": family.name,
        "checkpoints": len(family.names),
        **_vanilla(board),
        "vanilla_runs": 0 if own is None else int(fitted.level_runs[own]),
        "seed_noise": round(view.noise, 3) if told else None,
        "sensitivity": round(board.sensitivity, 3),
        "sensitivity_rank": None if rank is None else round(rank, 3),
        "best_gain": round(board.best_gain, 3),
        "calibration": _calibration(fitted.calibration.tolist()),
        "target": {
            "id": None if target is None else target.id,
            "name": None if target is None else target.name,
            "basis": basis,
            "stands_on": stands_on if own is None else int(fitted.measured[own]),
            "probed": board.probed,
        },
        "reference": family.reference,
        "probe_weights": {
            method: {
                "weight": round(float(weight), 4),
                "stderr": round(float(stderr), 4),
                "cells": int(cells),
            }
            for method, weight, stderr, cells in zip(
                fitted.probe_methods,
                fitted.probe_weight,
                fitted.probe_weight_stderr,
                fitted.probe_cells,
                strict=True,
            )
        },
    }


def _vanilla(board: Board) -> dict[str, Any]:
    """Its score, with an 80 % interval and where both come from."""
    level = board.view.level
    if math.isnan(level):
        return {"vanilla_score": None, "vanilla_score_interval": None, "vanilla_basis": None}
    low, high = _interval(board)
    return {
        "vanilla_score": round(level / 100, 5),
        "vanilla_score_interval": [round(low / 100, 5), round(high / 100, 5)],
        "vanilla_basis": "foretold" if board.view.target is None else "measured",
    }


def _interval(board: Board) -> tuple[float, float]:
    """80 % interval of the vanilla's level in points, within what scores can be."""
    level, reach = board.view.level, NORMAL_QUANTILE_90 * float(board.view.level_stderr)
    return max(level - reach, min(level, 0.0)), min(level + reach, max(level, 100.0))


def _calibration(found: Sequence[float]) -> dict[str, Any]:
    coverage, cells, widening = found
    return {
        "coverage": round(coverage, 3) if cells else None,
        "cells": int(cells),
        "widening": round(widening, 3),
    }


def _notes(board: Board, target: Target | None, others: Iterable[FamilySnapshot]) -> list[str]:
    """What to know of a family's evidence before relying on the answer."""
    family, fitted = board.family, board.family.posterior
    coverage, cells, widening = fitted.calibration.tolist()
    notes = [
        drift_in_words(coverage, int(cells), widening, family.name),
        _pooled(family, others),
        _probes(board, target),
    ]
    if not fitted.measured.any() and len(family.order):
        notes.insert(0, static_in_words(family.name, family.reference))
    return [note for note in notes if note is not None]


def _pooled(family: FamilySnapshot, others: Iterable[FamilySnapshot]) -> str | None:
    measured = len(family.posterior.rows)
    if measured >= ENOUGH:
        return None
    names = [other.name for other in others if other.name != family.name and len(other.posterior.rows)]
    return pooled_in_words(family.name, names, measured)


def _probes(board: Board, target: Target | None) -> str | None:
    """What a family's probes on the target have to do with the answer."""
    family, fitted, at = board.family, board.family.posterior, board.view.probed
    if target is None or at is None or not board.probed:
        return None
    ran, told = fitted.probe_counts[at], fitted.probe_known[at]
    columns = (ran, fitted.probe_methods, told, fitted.probe_weight, fitted.probe_cells)
    methods = [
        (name, int(n), float(weight), int(cells))
        for here, name, n, weight, cells in zip(*columns, strict=True)
        if here
    ]
    reference = at == fitted.reference
    return probes_in_words(board.probed, family.name, target.name, methods, reference=reference)


def notes_on(boards: Sequence[Board], target: Target | None) -> list[str]:
    """What to know of the vanillas' scores before they are compared."""
    notes = []
    if target is not None:
        lacking = [board for board in boards if board.view.target is None]
        if lacking:
            notes.append(
                f"The vanilla of {', '.join(board.family.name for board in lacking)} was never finetuned on "
                f"{target.name}: the answer rests on other targets. Finetune it there first."
            )
        foretold = [_score_in_words(board) for board in lacking if not math.isnan(board.view.level)]
        if foretold:
            notes.append(
                f"On {target.name}, from other targets and families, expect a score of {'; '.join(foretold)}."
            )
    if len(boards) > 1:
        notes.append("Gains are over each family's own vanilla; families are compared by expected_score.")
        notes += _unlinked_in_words(boards)
    return notes


def _score_in_words(board: Board) -> str:
    low, high = (end / 100 for end in _interval(board))
    return f"{board.view.level / 100:.3f} from {board.family.vanilla} (4 times in 5 {low:.3f} to {high:.3f})"


def _unlinked_in_words(boards: Sequence[Board]) -> list[str]:
    """The note on families that no target holds against each other, if there are some."""
    groups: dict[frozenset[str], list[str]] = {}
    for board in boards:
        linked = [other.family.name for other in boards if board.family.is_linked_to(other.family)]
        groups.setdefault(frozenset([board.family.name, *linked]), []).append(board.family.name)
    if len(groups) < 2:
        return []
    several = " and of ".join(", ".join(names) for names in groups.values())
    return [
        f"The vanillas of {several} were never run on the same target: how their scores compare is a guess "
        "that families are alike."
    ]
