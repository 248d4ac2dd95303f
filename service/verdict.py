"""The verdict of an answer, in a word and in words."""

from __future__ import annotations

from math import hypot, isnan
from typing import TYPE_CHECKING, Any, NamedTuple

from headstart.recommend import decide
from headstart.recommend.levels import NORMAL_QUANTILE_90, Lead, lead
from headstart.recommend.plan import FINETUNE, GROUP
from headstart.recommend.sentence import (
    ANY_TARGET,
    DESCRIBED,
    NO_CANDIDATE,
    NO_EVIDENCE,
    YOURS,
    job_in_words,
    only_vanilla_in_words,
    rests_on_in_words,
    sentence,
)

if TYPE_CHECKING:
    from headstart.entities import Target
    from service.advice_schemas import Question
    from service.best import Best
    from service.board import Board, Filter
    from service.candidates import Entry
    from service.outcome import Job


class Proposal(NamedTuple):
    """What to measure next, in words."""

    said: str
    starts: str | None  # the checkpoint that is finetuned on the target for the first time


class Words(NamedTuple):
    """What a sentence needs beside the contest."""

    target: str
    there: str  # in the imperative
    worth: float
    proposals: tuple[Proposal, ...]  # at most two, the best first


class _Choice(NamedTuple):
    """The first choice, and what does not hang on what it is worth. It holds no board, see `Outcome`."""

    board: int
    entry: Entry
    beside: int  # the board of the best vanilla
    name: str
    rests_on: str


def verdict_of(best: Best, words: Words, wanted: Filter) -> dict[str, Any]:
    """The verdict on the first choice, in words as well."""
    first = best.made("choice", lambda: _choice_of(best, wanted))
    if first is None:
        verdict, said = _nothing_to_choose(best, words.target)
        return {"verdict": verdict, "sentence": said, "worth": words.worth, "p_worth": None}
    board, beside = best.boards[first.board], best.boards[first.beside]
    over = _lead(board, first.entry, beside, words.worth)
    verdict = decide.judge(over.gain, over.p_beats, over.p_worth, words.worth)
    said = sentence(
        verdict,
        checkpoint=first.name,
        vanilla=beside.family.vanilla,
        target=words.target,
        there=words.there,
        worth=words.worth,
        rests_on=first.rests_on,
        next_job=_next_job(verdict, words, best.regret, first.name, beside),
        **over._asdict(),
    )
    return {"verdict": verdict, "sentence": said, "worth": words.worth, "p_worth": round(over.p_worth, 4)}


def _choice_of(best: Best, wanted: Filter) -> _Choice | None:
    found = best.top(1)
    if not found:
        return None
    at, entry = found[0]
    board = best.boards[at]
    fitted = board.family.posterior
    rests_on = rests_on_in_words(
        finetuned=int(fitted.finetuned[entry.row]) - (entry.runs_here > 0),
        runs_here=entry.runs_here,
        probed=bool(fitted.probed[entry.row]),
        probes_here=entry.probes_here,
    )
    beside = best.boards.index(_best_vanilla(best, board, wanted))
    return _Choice(at, entry, beside, board.family.names[entry.row], rests_on)


def _nothing_to_choose(best: Best, target: str) -> tuple[decide.Verdict, str]:
    """The verdict where no candidate is left, or none was there."""
    boards = [board for board in best.boards if board.family.names]
    if not boards:
        return decide.Verdict.MEASURE_FIRST, NO_EVIDENCE
    if any(len(board.family.order) for board in boards):
        return decide.Verdict.MEASURE_FIRST, NO_CANDIDATE
    first, score = max(boards, key=lambda board: board.standing.mean), None
    if not any(isnan(board.view.level) for board in boards):
        score = first.standing.mean / 100
    vanillas = [board.family.vanilla for board in boards]
    said = only_vanilla_in_words(vanillas, target, first.family.vanilla, score)
    return decide.Verdict.STAY_WITH_VANILLA, said


def _best_vanilla(best: Best, board: Board, wanted: Filter) -> Board:
    """The board with the highest vanilla's level; that of the first choice where none is higher."""
    if isnan(board.view.level):
        return board
    others = [one for one in best.boards if one is not board and _may_start_from_vanilla(one, wanted)]
    return max([board, *others], key=lambda one: one.standing.mean)


def _may_start_from_vanilla(board: Board, wanted: Filter) -> bool:
    """Whether the vanilla passes the filter."""
    family, row = board.family, board.family.posterior.vanilla
    if row < 0 or family.names[row] in wanted.exclude:
        return False
    if wanted.max_parameters is not None and not family.parameters_or_nan[row] <= wanted.max_parameters:
        return False
    allowed = family.allowed_licenses(wanted.licenses)
    return allowed is None or bool(allowed[family.license_codes[row]])


def _lead(board: Board, first: Entry, beside: Board, worth: float) -> Lead:
    """What the first choice gains over the best vanilla, which may be another family's."""
    if beside is board:
        return Lead(first.gain, first.low, first.high, first.p_beats, board.p_exceeds(first, worth))
    spread = (first.high - first.low) / 2 / NORMAL_QUANTILE_90
    mean, common, own = beside.standing
    if beside.view.target is not None and not isnan(beside.view.level_stderr):
        own = hypot(own, beside.view.level_stderr)
    return lead(first.score, spread, board.standing, (mean, common, own), worth)


def _next_job(
    verdict: decide.Verdict, words: Words, regret: float | None, first: str, beside: Board
) -> str | None:
    """The next job that the sentence ends with.

    None where a start is advised that leaves less to regret than a change is worth, nor where first of all
    the vanilla has to be finetuned, which the sentence says by itself. Who starts from the first choice
    finetunes it by that: then it is the job after.
    """
    proposals = words.proposals
    if verdict is decide.Verdict.START_FROM:
        if regret is None or regret < words.worth:
            return None
        proposals = tuple(one for one in proposals if one.starts != first)
    if verdict is decide.Verdict.MEASURE_FIRST and beside.view.target is None:
        return None
    return proposals[0].said if proposals else None


def proposals_of(jobs: tuple[Job, ...], there: str, *, timed: bool) -> tuple[Proposal, ...]:
    """The first two things to measure; probes by one method in one family are one. `timed`: say how long."""
    found: list[Proposal] = []
    left = jobs
    while left and len(found) < 2:
        first, together, left = left[0], left[:1], left[1:]
        if first.method != FINETUNE:
            kind = first.method, first.family
            together += tuple([job for job in left if (job.method, job.family) == kind])
            left = tuple([job for job in left if (job.method, job.family) != kind])
        names = [job.checkpoint for job in together[:GROUP]]
        seconds = sum(job.seconds for job in together[:GROUP]) if timed else None
        again = first.runs_here > 0
        said = job_in_words(first.method, names, there, seconds, again=again)
        found.append(Proposal(said, names[0] if first.method == FINETUNE and not again else None))
    return tuple(found)


def target_in_words(target: Target | None, question: Question) -> tuple[str, str]:
    """The target, and what it is called where something is to be done on it."""
    if target is not None:
        return target.name, target.name
    asked = question.target
    told = asked is not None and (asked.train_size is not None or asked.classes is not None)
    return DESCRIBED if told else ANY_TARGET, YOURS
