"""The answer of POST /recommend, from the snapshot to bytes. No database, no queue, no thread hop."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from headstart.errors import NotFound
from headstart.recommend.choice import pareto
from headstart.recommend.cost import ASSUMED, finetune_cost
from headstart.recommend.explain import explain, sensitivity_of
from headstart.recommend.plan import FINETUNE
from headstart.recommend.sentence import NO_EVIDENCE
from service.board import Filter
from service.families import facts_of, notes_on
from service.verdict import Proposal, Words, proposals_of, target_in_words, verdict_of

if TYPE_CHECKING:
    from headstart.entities import Target
    from service.advice_schemas import Question
    from service.best import Best
    from service.board import Board, Facts
    from service.outcome import Job
    from service.snapshot import FamilySnapshot, Snapshot

MOST_ANSWERS = 1_024  # kept answers to questions that come again
MOST_BYTES = 1 << 15  # of a question and its answer that are kept
MOST_LISTED = 50  # candidates of an answer that is kept for other words


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
    """The answer. That of a question asked in other words is found again; hardly two describe one size."""
    families, target = _families(snapshot, question.family), _target(snapshot, question)
    wanted = _filter(families, question)

    def make() -> bytes:
        return _said(snapshot, question, families, target, wanted)

    if question.limit > MOST_LISTED or (target is None and _train_size(question, target) is not None):
        return make()
    return snapshot.written.get(_asked(question, target, wanted), make)


def _asked(question: Question, target: Target | None, wanted: Filter) -> tuple[Any, ...]:
    """What an answer depends on beside the snapshot."""
    about: Any = None if target is None else target.id
    if target is None and question.target is not None:
        described = question.target
        about = (described.train_size, described.classes, described.task is not None)
    shown = (question.limit, question.worth, question.explain, question.next_jobs, question.pareto)
    return question.family, about, wanted, shown


def _said(
    snapshot: Snapshot,
    question: Question,
    families: list[FamilySnapshot],
    target: Target | None,
    wanted: Filter,
) -> bytes:
    boards = [_board(family, question, target) for family in families]
    best = snapshot.best(boards, wanted)
    facts = [facts_of(board, target, snapshot.families.values()) for board in boards]
    candidates = _explained(best, question.limit) if question.explain else best.written(question.limit)
    if target is None and _train_size(question, target) is not None:  # hardly two have as many rows
        rest = _rest(snapshot, best, facts, target, question)
    else:
        key = (*_key(question, target), wanted if question.pareto else None)
        rest = best.made(key, lambda: _rest(snapshot, best, facts, target, question))
    words = Words(*rest.words, question.worth, rest.proposals)
    verdict = best.made(words, lambda: orjson.dumps(verdict_of(best, words, wanted))[1:-1])
    families_said = [one.json for one in facts]
    if question.explain:
        families_said = [
            _with_reaction(said, board) for said, board in zip(families_said, boards, strict=True)
        ]
    return b'{%s,%s,"families":[%s],"candidates":[%s]}' % (
        verdict,
        rest.json,
        b",".join(families_said),
        candidates,
    )


class _Rest(NamedTuple):
    """What an answer says beside the verdict, the families and the candidates: whatever a change is worth."""

    json: bytes  # keys of an object
    words: tuple[str, str]  # see `target_in_words`
    proposals: tuple[Proposal, ...]


def _key(question: Question, target: Target | None) -> tuple[Any, ...]:
    """What `_Rest` depends on beside the contest."""
    asked = question.target
    described = None if asked is None else (asked.classes is None, asked.task is not None)
    known = None if target is None else (target.name, target.train_size)
    return question.next_jobs, question.pareto, described, known


def _rest(
    snapshot: Snapshot, best: Best, facts: list[Facts], target: Target | None, question: Question
) -> _Rest:
    """Its parts are kept one by one: those of one target differ in few."""
    train_size = _train_size(question, target)
    rows = train_size if target is None else snapshot.train_rows(target)
    wished = 0 if question.target is None else question.next_jobs  # a job needs a target to run on
    name = None if target is None else target.name
    jobs, (said, there) = best.next_jobs(wished, rows, name), target_in_words(target, question)
    timed = train_size is not None
    proposals: tuple[Proposal, ...] = ()
    if jobs:
        key = (wished, rows, name, there)
        proposals = best.of_jobs(key, lambda: proposals_of(jobs, there, timed=timed))
    has_task = question.target is not None and question.target.task is not None
    notes = best.made(
        (said, has_task), lambda: orjson.dumps(_all_notes(best, facts, target, has_task=has_task))
    )
    json = b'%s,"next_jobs":[%s],"seconds_basis":"%s","pareto":%s,"evidence_version":%d,"notes":%s' % (
        best.summary,
        b",".join([job.json for job in jobs]),
        _basis(best, jobs, target),
        orjson.dumps(_pareto(best, rows) if question.pareto else None),
        snapshot.evidence_version,
        notes,
    )
    return _Rest(json, (said, there), proposals)


def _basis(best: Best, jobs: tuple[Job, ...], target: Target | None) -> bytes:
    """Whether jobs of these kinds were timed here, and the rows are known."""
    if target is None or not jobs:
        return b"assumed"
    family = best.boards[0].family  # its rates are those of all
    rates = [family.finetune_rate if job.method == FINETUNE else family.probe_rate for job in jobs]
    return b"measured" if all(one.basis == "measured" for one in rates) else b"assumed"


def _all_notes(best: Best, facts: list[Facts], target: Target | None, *, has_task: bool) -> list[str]:
    notes = notes_on(best.boards, target) + [note for one in facts for note in one.notes]
    if has_task:
        notes.append(
            "The task does not change the answer: in the published results targets of one task were no "
            "better guides to each other than any others."
        )
    return notes


def _filter(families: list[FamilySnapshot], question: Question) -> Filter:
    """What the question asks for: names that nobody has left out, and each once, in an order of their own."""
    licenses, exclude = question.licenses, question.exclude
    if licenses:
        licenses = tuple(sorted({one.casefold() for one in licenses}))
    if exclude:
        rows = [family.row_of for family in families]
        exclude = tuple(sorted({name for name in exclude if any(name in row_of for row_of in rows)}))
    return Filter(question.max_parameters, licenses, exclude)


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
    asked = question.target
    if target is not None or asked is None:
        return family.board(target)
    return family.board(None, asked.train_size, asked.classes)


def _train_size(question: Question, target: Target | None) -> int | None:
    if target is not None:
        return target.train_size
    return None if question.target is None else question.target.train_size


def _with_reaction(said: bytes, board: Board) -> bytes:
    """A family's part of the answer, with how its target reacts once seed noise is told apart."""
    found = sensitivity_of(board.view, board.family.population)
    text = {
        "sensitivity": round(found.points, 3),
        "apparent_spread": round(found.apparent, 3),
        "quality_share": round(found.quality_share, 4),
        "noise_share": round(found.noise_share, 4),
    }
    return b'%s,"explanation":%s}' % (said[:-1], orjson.dumps(text))


def _explained(best: Best, limit: int) -> bytes:
    """The first candidates with their explanations, as the items of a JSON array."""
    found = best.top(limit)
    said: dict[tuple[int, int], bytes] = {}
    for k, board in enumerate(best.boards):
        texts = _explanations(board, [one.entry.row for one in found if one.board == k])
        said |= {(k, row): text for row, text in texts.items()}
    return b",".join([best.candidate(one, said[one.board, one.entry.row]) for one in found])


def _explanations(board: Board, rows: list[int]) -> dict[int, bytes]:
    """Of each row, where its expected gain comes from."""
    if not rows:
        return {}
    targets = board.family.targets
    return {
        one.row: orjson.dumps(
            {
                "target": round(one.target, 3),
                "prior": round(one.prior, 3),
                "finetunes": round(one.finetunes, 3),
                "probes": round(one.probes, 3),
                "here": round(one.here, 3),
                "moved_by": [
                    {
                        "target": targets[moved.target].name,
                        "runs": moved.runs,
                        "gain": round(moved.gain, 3),
                        "foretold": round(moved.foretold, 3),
                        "points": round(moved.points, 3),
                    }
                    for moved in one.moved_by
                ],
            }
        )
        for one in explain(board.family.posterior, board.view, np.array(rows))
    }


def _pareto(best: Best, rows: int | None) -> list[str]:
    """The candidates that no other beats in score, size and cost together, best score first."""
    found = sorted(best.smaller_and_smaller(), key=lambda one: -one.entry.score)
    families = [best.boards[one.board].family for one in found]
    sizes = np.array(
        [family.parameters_or_nan[one.entry.row] for one, family in zip(found, families, strict=True)]
    )
    rate = families[0].finetune_rate if families else ASSUMED
    cost = np.where(np.isnan(sizes), np.nan, finetune_cost(sizes, rows, rate=rate).seconds)
    chosen = pareto([one.entry.score for one in found], sizes, cost).tolist()
    return [
        family.names[one.entry.row] for one, family, keep in zip(found, families, chosen, strict=True) if keep
    ]
