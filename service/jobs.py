"""From requests to measure to job drafts: names looked up in bulk, and all that is wrong told at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import ValidationError

from headstart.checkpoints.place import why_no_weights
from headstart.entities import Checkpoint, JobDraft, Target
from headstart.errors import Conflict, HeadstartError, InvalidInput, NotFound, Problem, nearest_names
from service.job_schemas import MOST_JOBS
from service.keeping import check_keep, to_keep
from service.validation import invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headstart.entities import Job, Page, Submission, SubmissionStatus
    from headstart.method import Method
    from headstart.store import Store
    from service.job_schemas import JobRequest

T = TypeVar("T")

MOST_CANDIDATES = 1000  # names looked through for the nearest one
WEIGHED = frozenset({"features", "finetune", "loss_chains", "weights"})  # ingredients that take weights
SHORTEST_PIECE = 2  # letters of a name that is searched for by its halves
ADDED_BY = {  # what to do about a name that is not there
    "checkpoint": "Register it by POST /checkpoints, or headstart checkpoints add.",
    "target": "Add its rows by POST /targets, or headstart targets add.",
}
MOST_SHOWN = 10  # families or ids named in one sentence


class SeveralUnknown(NotFound):
    """Several names or ids of one request are not in the store, and nothing else is wrong with it."""

    def __init__(self, message: str, problems: Sequence[Problem]) -> None:
        HeadstartError.__init__(self, message, problems)
        self.nearest = ()


@dataclass(frozen=True, slots=True)
class Known:
    """What the names of some requests stand for."""

    store: Store
    methods: Mapping[str, Method]
    checkpoints: Mapping[str, tuple[Checkpoint, ...]]
    targets: Mapping[str, Target]
    signed: bool  # webhooks are signed, so that jobs may have one
    searched: set[str] = field(default_factory=set)  # kinds that a nearest name was searched for
    by_id: dict[tuple[str, int], Checkpoint | Target | None] = field(default_factory=dict)
    keeping: dict[str, Job | JobDraft] = field(default_factory=dict)  # name -> what is to be kept under it

    @classmethod
    def of(
        cls, store: Store, methods: Mapping[str, Method], requests: Sequence[JobRequest], *, signed: bool
    ) -> Known:
        """Look up all names of the requests in a few queries."""
        checkpoints = {one.checkpoint for one in requests if isinstance(one.checkpoint, str)}
        checkpoints |= {one.keep for one in requests if one.keep is not None}
        targets = {one.target for one in requests if isinstance(one.target, str)}
        return cls(
            store,
            methods,
            store.checkpoints_named(checkpoints) if checkpoints else {},
            store.targets_named(targets) if targets else {},
            signed,
        )

    def of_id(self, kind: str, identity: int) -> Checkpoint | Target | None:
        """The checkpoint or target of an id, looked up once; None where there is none."""
        key = (kind, identity)
        if key not in self.by_id:
            find = self.store.checkpoint if kind == "checkpoint" else self.store.target
            try:
                self.by_id[key] = find(identity)
            except NotFound:
                self.by_id[key] = None
        return self.by_id[key]


def submit(
    known: Known, requests: Sequence[JobRequest], places: Sequence[str], *, attempts: int, request_id: str
) -> tuple[Submission, ...]:
    """Submit all requests, or raise all that is wrong with them. `places` are what their fields are under.

    Up to MOST_JOBS are submitted in one transaction; more of them in several, so that nobody waits long.
    """
    drafts = drafts_of(known, requests, places)

    def ask(together: Sequence[JobDraft]) -> Sequence[Submission]:
        return known.store.submit_jobs(together, attempts=attempts, request_id=request_id)

    return tuple(_asked(known, requests, places, drafts, ask))


class Foreseen(NamedTuple):
    """A request that would be taken."""

    draft: JobDraft
    status: SubmissionStatus  # what would become of it
    checkpoint: Checkpoint | None
    target: Target | None


def foresee(known: Known, requests: Sequence[JobRequest], places: Sequence[str]) -> tuple[Foreseen, ...]:
    """What would become of each request; or raise all that is wrong with them, as `submit` does."""
    drafts = drafts_of(known, requests, places)
    found = _asked(known, requests, places, drafts, known.store.foresee_jobs)
    named = {one.id: one for few in known.checkpoints.values() for one in few}
    targets = {one.id: one for one in known.targets.values()}

    def of(draft: JobDraft, status: SubmissionStatus) -> Foreseen:
        identity, on = draft.checkpoint_id or 0, draft.target_id or 0
        checkpoint = named.get(identity) or known.of_id("checkpoint", identity)
        target = targets.get(on) or known.of_id("target", on)
        return Foreseen(
            draft,
            status,
            checkpoint if isinstance(checkpoint, Checkpoint) else None,
            target if isinstance(target, Target) else None,
        )

    return tuple(map(of, drafts, found))


def drafts_of(known: Known, requests: Sequence[JobRequest], places: Sequence[str]) -> list[JobDraft]:
    """The draft of each request, or raise all that is wrong with them but for ids: the store checks those."""
    drafts: list[JobDraft] = []
    wrong: list[tuple[str, HeadstartError]] = []
    for request, place in zip(requests, places, strict=True):
        found = draft_of(request, known)
        if isinstance(found, JobDraft):
            drafts.append(found)
        else:
            wrong += [(place, error) for error in found]
    if wrong:
        raise refusal(wrong + _unknown_ids(known, requests, places))
    return drafts


def _asked(
    known: Known,
    requests: Sequence[JobRequest],
    places: Sequence[str],
    drafts: Sequence[JobDraft],
    ask: Callable[[Sequence[JobDraft]], Sequence[T]],
) -> list[T]:
    """What the store answers to all drafts, MOST_JOBS at a time; or raise which ids are not there."""
    answers: list[T] = []
    try:
        for at in range(0, len(drafts), MOST_JOBS):
            answers += ask(drafts[at : at + MOST_JOBS])
    except NotFound:
        unknown = _unknown_ids(known, requests, places)
        if not unknown:
            raise
        raise refusal(unknown) from None
    return answers


def check(request: JobRequest, known: Known) -> None:
    """Raise all that is wrong with one request, before others like it are submitted."""
    found = draft_of(request, known)
    if not isinstance(found, JobDraft):
        raise refusal([("", error) for error in found])


def weighty_checkpoint(request: JobRequest, known: Known) -> Checkpoint:
    """The checkpoint that a request names. Raises what is wrong with the name, or that it has no weights."""
    found = known.of_id("checkpoint", _checkpoint_id(request, known))
    if not isinstance(found, Checkpoint):
        raise _unknown("checkpoint", request.checkpoint)
    why = why_no_weights(found)
    if why is not None:
        message = f"{why} Its weights are needed: register them by POST /checkpoints."
        raise Conflict(f"checkpoint: {message}", [Problem("checkpoint", message)])
    return found


def draft_of(request: JobRequest, known: Known) -> JobDraft | list[HeadstartError]:
    """The draft of one request, or all that is wrong with it. Ids are left for the store to check."""
    wrong: list[HeadstartError] = []

    def tried(step: Callable[[JobRequest, Known], T]) -> T | None:
        try:
            return step(request, known)
        except (InvalidInput, NotFound, Conflict) as error:
            wrong.append(error)
            return None

    method, checkpoint_id, target_id = tried(_method), tried(_checkpoint_id), tried(_target_id)
    params = None if method is None else tried(lambda request, _: _params(request, method))
    if method is not None and target_id is not None:
        tried(lambda request, known: _check_rows(request, method, target_id, known))
    if method is not None and checkpoint_id is not None:
        tried(lambda request, known: _check_weights(request, method, checkpoint_id, known))
    if request.webhook is not None:
        tried(_check_webhook)
    if request.keep is not None:
        tried(check_keep)
    if wrong or method is None or params is None:
        return wrong
    draft = JobDraft(
        method=method.name,
        method_version=method.version,
        checkpoint_id=checkpoint_id,
        target_id=target_id,
        params=params,
        seed=request.seed,
        queue=method.queue,
        priority=request.priority,
        webhook=request.webhook,
    )
    if request.keep is None:
        return draft
    return tried(lambda request, known: to_keep(draft, request, known)) or wrong


def _method(request: JobRequest, known: Known) -> Method:
    method = known.methods.get(request.method)
    if method is None:
        raise _unknown("method", request.method, list(known.methods))
    if method.run is None:
        runnable = sorted(name for name, one in known.methods.items() if one.run is not None)
        remedy = f"Choose one that can be run: {', '.join(runnable)}." if runnable else "Use POST /imports."
        message = f"Scores of {method.name!r} are imported here, not measured. {remedy}"
        raise InvalidInput(f"method: {message}", [Problem("method", message)])
    return method


def _params(request: JobRequest, method: Method) -> dict[str, Any]:
    try:
        return method.params.model_validate(request.params).model_dump(mode="json")
    except ValidationError as error:
        placed = [{**one, "loc": ("params", *one["loc"])} for one in error.errors(include_url=False)]
        raise invalid(placed, method.params) from None


def _checkpoint_id(request: JobRequest, known: Known) -> int:
    wanted, family = request.checkpoint, request.family
    if not isinstance(wanted, str):
        return wanted
    named = known.checkpoints.get(wanted, ())
    if not named:
        raise _unknown("checkpoint", wanted, _like(known, "checkpoint", wanted, known.store.checkpoints))
    families = list(dict.fromkeys(one.family for one in named))
    fitting = [one for one in named if family is None or one.family == family]
    if len(fitting) == 1:
        return fitting[0].id
    if not fitting:
        message = f"Checkpoint {wanted!r} is not of the family {family!r}, but of {_some(families)}."
    elif family is None and len(families) > 1:
        message = (
            f"The name {wanted!r} is used in several families: {_some(families)}. Add the field family, or "
            "give the checkpoint's id."
        )
    else:
        ids = _some([str(one.id) for one in fitting])
        message = f"The name {wanted!r} has several revisions: give the id of one of them ({ids})."
    place = "checkpoint" if fitting else "family"
    raise InvalidInput(f"{place}: {message}", [Problem(place, message)])


def _target_id(request: JobRequest, known: Known) -> int:
    wanted = request.target
    if not isinstance(wanted, str):
        return wanted
    target = known.targets.get(wanted)
    if target is None:
        raise _unknown("target", wanted, _like(known, "target", wanted, known.store.targets))
    return target.id


def _check_rows(request: JobRequest, method: Method, target_id: int, known: Known) -> None:
    """Refuse a target without rows where the method needs them. An id that is not there is told later."""
    if not method.needs_rows:
        return
    wanted = request.target
    target = known.targets[wanted] if isinstance(wanted, str) else known.of_id("target", target_id)
    if isinstance(target, Target) and target.fingerprint is None:
        message = (
            f"The store holds no rows of {target.name!r}, and {method.name} measures on them. Add them "
            "by POST /targets under this name, or headstart targets add."
        )
        raise Conflict(f"target: {message}", [Problem("target", message)])


def _check_weights(request: JobRequest, method: Method, checkpoint_id: int, known: Known) -> None:
    """Refuse a checkpoint that cannot have weights where the method needs them."""
    if not WEIGHED.intersection(method.needs):
        return
    named = known.checkpoints.get(request.checkpoint, ()) if isinstance(request.checkpoint, str) else ()
    of_name = next((one for one in named if one.id == checkpoint_id), None)
    checkpoint = of_name or known.of_id("checkpoint", checkpoint_id)
    why = why_no_weights(checkpoint) if isinstance(checkpoint, Checkpoint) else None
    if why is not None:
        message = f"{why} {method.name} needs its weights: register them by POST /checkpoints."
        raise Conflict(f"checkpoint: {message}", [Problem("checkpoint", message)])


def _check_webhook(request: JobRequest, known: Known) -> None:
    check_webhook(request.webhook or "", signed=known.signed)


def check_webhook(url: str, *, signed: bool) -> None:
    """As `headstart.webhooks` checks it, imported with httpx by those alone who want one."""
    from headstart import webhooks  # noqa: PLC0415

    webhooks.check_webhook(url, signed)


def _unknown(kind: str, name: str | int, names: Sequence[str] = ()) -> NotFound:
    remedy = None
    if isinstance(name, str) and kind in ADDED_BY:
        near = ", ".join(nearest_names(name, names))
        listed = f"Nearest known: {near}." if near else f"Known ones are listed at GET /{kind}s."
        remedy = f"{listed} {ADDED_BY[kind]}"
    error = NotFound(kind, name, names, remedy=remedy)
    error.problems = (Problem(kind, error.message),)
    return error


def _like(known: Known, kind: str, name: str, listed: Callable[..., Page[Any]]) -> list[str]:
    """Some names like this one, for the first unknown one of its kind: it takes a look at all names.

    Those that hold what follows its last slash, or a half of that: one wrong letter leaves a half right.
    """
    if kind in known.searched:
        return []
    known.searched.add(kind)
    last = name.rsplit("/", 1)[-1] or name
    half = (len(last) + 1) // 2
    found: dict[str, None] = {}
    for piece in (last, last[:half], last[half:]):
        if len(piece) >= SHORTEST_PIECE and len(found) < MOST_CANDIDATES:
            page = listed(search=piece, page_size=MOST_CANDIDATES - len(found))
            found |= dict.fromkeys(one.name for one in page.items)
    return list(found)


def _unknown_ids(
    known: Known, requests: Sequence[JobRequest], places: Sequence[str]
) -> list[tuple[str, HeadstartError]]:
    """Which ids are not there, and where. Slow, and only for who has made a mistake."""
    wrong: list[tuple[str, HeadstartError]] = []
    for request, place in zip(requests, places, strict=True):
        for kind, identity in (("checkpoint", request.checkpoint), ("target", request.target)):
            if not isinstance(identity, str) and known.of_id(kind, identity) is None:
                wrong.append((place, _unknown(kind, identity)))
    return wrong


def refusal(wrong: Sequence[tuple[str, HeadstartError]]) -> HeadstartError:
    """One error that names every problem with its place."""
    problems = [Problem(place + one.field, one.message) for place, error in wrong for one in error.problems]
    if len(wrong) == 1 and not wrong[0][0]:
        return wrong[0][1]
    more = f" And {len(problems) - 1} more, see errors." if len(problems) > 1 else ""
    message = f"{problems[0].field}: {problems[0].message}{more}"
    if all(isinstance(error, NotFound) for _, error in wrong):
        return SeveralUnknown(message, problems)
    if not any(isinstance(error, InvalidInput) for _, error in wrong):  # right in itself, in another store
        return Conflict(message, problems)
    return InvalidInput(message, problems)


def _some(words: Sequence[str]) -> str:
    shown = ", ".join(words[:MOST_SHOWN])
    return shown if len(words) <= MOST_SHOWN else f"{shown} and {len(words) - MOST_SHOWN} more"
