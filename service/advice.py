"""The answer of POST /recommend, from the snapshot to bytes. No database, no queue, no thread hop."""

from __future__ import annotations

import heapq
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import orjson

from headstart.errors import NotFound
from headstart.recommend import decide
from headstart.recommend.sentence import (
    NO_CANDIDATE,
    NO_EVIDENCE,
    probes_in_words,
    sentence,
    static_in_words,
)
from service.board import Facts, Filter, join

if TYPE_CHECKING:
    from headstart.entities import Target
    from service.advice_schemas import Question
    from service.board import Board, Entry
    from service.snapshot import FamilySnapshot, Snapshot

MOST_ANSWERS = 1_024  # kept answers to questions that come again
MOST_BYTES = 1 << 15  # of a question and its answer that are kept


def answer(snapshot: Snapshot, question: Question, body: bytes) -> tuple[bytes, str]:
    """The answer and its ETag. `body` are the bytes of the question, by which the answer is kept.

    Raises: NotFound for a family, target id or target name that is not in the snapshot.
    """
    kept = snapshot.answers.get(body)
    if kept is None:
        etag = f'"{snapshot.tag}-{blake2b(body, digest_size=8).hexdigest()}"'
        kept = (_write(snapshot, question), etag)
        if len(body) + len(kept[0]) <= MOST_BYTES:
            if len(snapshot.answers) >= MOST_ANSWERS:
                snapshot.answers.popitem(last=False)  # the oldest: one at a time, so that no answer waits
            snapshot.answers[body] = kept
    return kept


def _write(snapshot: Snapshot, question: Question) -> bytes:
    families = _families(snapshot, question.family)
    target = _target(snapshot, question)
    boards = [_board(family, question, target) for family in families]
    wanted = Filter(question.max_parameters, question.licenses, question.exclude)
    if len(boards) == 1:
        board = boards[0]
        first, candidates = board.candidates(question.limit, wanted)
        choice = None if first is None else (board, first)
    else:
        found = _across(boards, question.limit, wanted)
        choice, candidates = (found[0] if found else None), join([entry for _, entry in found])
    head: dict[str, Any] = _verdict(choice, boards, target, question)
    head["evidence_version"] = snapshot.evidence_version
    facts = [_facts(board, target) for board in boards]
    head["notes"] = _notes(boards, facts, target, question)
    families_json = b",".join([one.json for one in facts])
    return b'%s,"families":[%s],"candidates":[%s]}' % (orjson.dumps(head)[:-1], families_json, candidates)


def _families(snapshot: Snapshot, name: str | None) -> list[FamilySnapshot]:
    if name is None:
        return list(snapshot.families.values())
    family = snapshot.families.get(name)
    if family is None:
        raise NotFound("family", name, snapshot.families, remedy=None if snapshot.families else NO_EVIDENCE)
    return [family]


def _target(snapshot: Snapshot, question: Question) -> Target | None:
    asked = question.target
    if asked is None:
        return None
    if asked.id is not None:
        if asked.id not in snapshot.targets:
            raise NotFound("target", asked.id)
        return snapshot.targets[asked.id]
    if asked.name is not None:
        if asked.name not in snapshot.targets_by_name:
            raise NotFound("target", asked.name, snapshot.targets_by_name)
        return snapshot.targets_by_name[asked.name]
    return None


def _board(family: FamilySnapshot, question: Question, target: Target | None) -> Board:
    if target is not None:
        return family.board(target.id, target.train_size, target.classes)
    asked = question.target
    if asked is not None:
        return family.board(None, asked.train_size, asked.classes)
    return family.board(None, None, None)


def _across(boards: list[Board], limit: int, wanted: Filter) -> list[tuple[Board, Entry]]:
    """The best of all families by expected score; families without a vanilla level come last."""
    found = [(board, entry) for board in boards for entry in board.top(limit, wanted)]
    return heapq.nlargest(
        limit, found, key=lambda one: one[1].score if one[1].score == one[1].score else -1.0
    )


def _verdict(
    choice: tuple[Board, Entry] | None, boards: list[Board], target: Target | None, question: Question
) -> dict[str, Any]:
    if choice is None:
        said = NO_CANDIDATE if boards else NO_EVIDENCE
        return {
            "verdict": decide.Verdict.MEASURE_FIRST,
            "sentence": said,
            "worth": question.worth,
            "p_worth": None,
        }
    board, first = choice
    worth = question.worth
    p_worth = first.p_worth if worth == decide.WORTH else decide.p_exceeds(board.view, *first.z, worth)
    verdict = decide.judge(first.gain, first.p_beats, p_worth, worth)
    said = sentence(
        verdict,
        checkpoint=board.family.names[first.row],
        vanilla=board.family.vanilla,
        target=_in_words(target, question),
        gain=first.gain,
        low=first.low,
        high=first.high,
        p_beats=first.p_beats,
        p_worth=p_worth,
        worth=worth,
    )
    return {"verdict": verdict, "sentence": said, "worth": worth, "p_worth": round(p_worth, 4)}


def _in_words(target: Target | None, question: Question) -> str:
    if target is not None:
        return target.name
    return "a target like those known" if question.target is None else "a target as described"


def _facts(board: Board, target: Target | None) -> Facts:
    """The family's part of the answer, written once per board and target."""
    name = None if target is None else target.name
    facts = board.facts.get(name)
    if facts is None:
        answer = orjson.dumps(_family_answer(board, target))
        facts = board.facts[name] = Facts(answer, tuple(_family_notes(board, target)))
    return facts


def _family_answer(board: Board, target: Target | None) -> dict[str, Any]:
    family, view = board.family, board.view
    fitted = family.posterior
    own = view.target is not None
    known = view.level == view.level
    rank = family.reaction_rank(board.sensitivity)
    if own:
        basis, stands_on = "own", int(fitted.measured[view.target])
    else:
        basis, stands_on = ("others", len(view.weights)) if known else ("prior", 0)
    return {
        "family": family.name,
        "checkpoints": len(family.names),
        "vanilla_score": round(view.level / 100, 5) if known else None,
        "vanilla_runs": int(fitted.level_runs[view.target]) if own else 0,
        "seed_noise": round(view.noise, 3) if view.noise == view.noise else None,
        "sensitivity": round(board.sensitivity, 3),
        "sensitivity_rank": None if rank is None else round(rank, 3),
        "target": {
            "id": target.id if target is not None else None,
            "name": target.name if target is not None else None,
            "basis": basis,
            "stands_on": stands_on,
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


def _family_notes(board: Board, target: Target | None) -> list[str]:
    """What a family's probes have to do with the answer."""
    family, fitted, at = board.family, board.family.posterior, board.view.probed
    notes = []
    if not fitted.measured.any() and len(family.order):
        notes.append(static_in_words(family.name, family.reference))
    if target is not None and at is not None and board.probed:
        ran, told = fitted.probe_counts[at], fitted.probe_known[at]
        columns = (ran, fitted.probe_methods, told, fitted.probe_weight, fitted.probe_cells)
        methods = [
            (name, int(n), float(weight), int(cells))
            for here, name, n, weight, cells in zip(*columns, strict=True)
            if here
        ]
        reference = at == fitted.reference
        notes.append(probes_in_words(board.probed, family.name, target.name, methods, reference=reference))
    return notes


def _notes(boards: list[Board], facts: list[Facts], target: Target | None, question: Question) -> list[str]:
    notes = []
    if target is not None:
        lacking = [board.family.name for board in boards if board.view.target is None]
        if lacking:
            notes.append(
                f"The vanilla of {', '.join(lacking)} was never finetuned on {target.name}: the answer rests "
                "on other targets. Finetune it there first."
            )
    if len(boards) > 1:
        notes.append("Gains are over each family's own vanilla; families are compared by expected_score.")
    if question.target is not None and question.target.task is not None:
        notes.append("task does not change the answer: on the published evidence it is no guide.")
    for one in facts:
        notes += one.notes
    return notes
