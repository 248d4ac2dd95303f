"""The probe of a whole family: one job for each checkpoint whose weights can be had, its vanilla first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headstart.checkpoints.place import why_no_weights
from headstart.entities import Lineage, RecordedResponse, SubmissionStatus
from headstart.errors import InvalidInput, Problem, TooLarge
from headstart.store.paging import all_items
from service import checkpoint_schemas as wire
from service.job_schemas import Counts, JobRequest
from service.jobs import Known, check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headstart.entities import Checkpoint, Family, Submission, Target
    from headstart.method import Method
    from headstart.store import Store

MOST_CHECKPOINTS = 20_000  # in one call


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured, and what cannot be."""

    family: Family
    target: Target
    method: str
    requests: tuple[JobRequest, ...]
    skipped: tuple[tuple[Checkpoint, str], ...]
    vanilla: Checkpoint | None

    def written(self, answers: Sequence[Submission]) -> RecordedResponse:
        """The answer once all are submitted."""
        counts = Counter(one.status.value for one in answers)
        answer = wire.FamilyProbe(
            family=self.family.name,
            target=self.target.name,
            method=self.method,
            checkpoints=len(self.requests) + len(self.skipped),
            counts=Counts(**{status.value: counts[status.value] for status in SubmissionStatus}),
            skipped=len(self.skipped),
            first_skipped=[
                wire.SkippedCheckpoint(checkpoint_id=one.id, checkpoint=one.name, reason=why)
                for one, why in self.skipped[: wire.MOST_SKIPPED]
            ],
            job_ids=[one.job.id for one in answers if one.job is not None],
            notes=self._notes(),
        )
        return RecordedResponse(status=202, headers={}, body=answer.model_dump_json().encode())

    def _notes(self) -> list[str]:
        if self.vanilla is None:
            return [
                f"The family {self.family.name!r} has no vanilla yet, and gains are measured against it: "
                "register it by POST /checkpoints with is_vanilla, then ask again."
            ]
        why = next((why for one, why in self.skipped if one.id == self.vanilla.id), None)
        if why is None:
            return []
        return [
            f"The vanilla {self.vanilla.name!r} cannot be measured, and gains are measured against it. {why}"
        ]


def plan(store: Store, methods: Mapping[str, Method], name: str, wanted: wire.FamilyProbeRequest) -> Plan:
    """Look up the family and check the request once, for all its checkpoints.

    Raises: NotFound (family, target, method), InvalidInput (a method that is no probe or cannot be run, wrong
    params), Conflict (a target without rows), TooLarge (more than MOST_CHECKPOINTS).
    """
    family, method = store.family(name), methods.get(wanted.method)
    if method is not None and "finetune" in method.needs:
        message = (
            f"{method.name!r} is no probe: it would train every checkpoint of the family. Send those "
            "that are worth it to POST /jobs/batch; `next_jobs` of POST /recommend names them."
        )
        raise InvalidInput(f"method: {message}", [Problem("method", message)])
    if family.checkpoints > MOST_CHECKPOINTS:
        raise TooLarge(
            f"The family {name!r} has {family.checkpoints} checkpoints, and a call takes {MOST_CHECKPOINTS}. "
            "Choose among them, and send POST /jobs/batch."
        )
    by_name = isinstance(wanted.target, str)
    target = store.target_named(str(wanted.target)) if by_name else store.target(int(wanted.target))
    measurable, skipped = with_weights(store, family.name)
    found = [one for one in measurable if one.lineage != Lineage.CONTRADICTED]
    skipped += tuple(
        (one, f"It is not of the family. {one.lineage_reason}")
        for one in measurable
        if one.lineage == Lineage.CONTRADICTED
    )
    everyone = (*found, *(one for one, _ in skipped))
    names = Counter(one.name for one in everyone)
    requests = tuple(_request(wanted, one, target, unique=names[one.name] == 1) for one in found)
    if requests:
        check(requests[0], Known.of(store, methods, requests[:1], signed=False))
    vanilla = next((one for one in everyone if one.is_vanilla), None)
    return Plan(family, target, wanted.method, requests, skipped, vanilla)


def with_weights(
    store: Store, family: str
) -> tuple[tuple[Checkpoint, ...], tuple[tuple[Checkpoint, str], ...]]:
    """The checkpoints of a family whose weights may be had, the vanilla first; and the others, with why."""
    listed = sorted(all_items(store.checkpoints, family=family), key=lambda one: (not one.is_vanilla, one.id))
    asked = [(one, why_no_weights(one)) for one in listed]
    found = tuple(one for one, why in asked if why is None)
    return found, tuple((one, why) for one, why in asked if why is not None)


def _request(
    wanted: wire.FamilyProbeRequest, checkpoint: Checkpoint, target: Target, *, unique: bool
) -> JobRequest:
    """By name where that tells it, since names are looked up together and ids one by one."""
    by_name = unique and len(checkpoint.name) <= 300
    return JobRequest.model_construct(
        method=wanted.method,
        checkpoint=checkpoint.name if by_name else checkpoint.id,
        family=checkpoint.family,
        target=target.id,
        params=wanted.params,
        seed=wanted.seed,
        priority=wanted.priority,
        webhook=None,
    )
