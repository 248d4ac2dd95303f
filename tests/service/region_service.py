"""A service with a family whose weights can be had, and what a search for its regions could end with."""

from __future__ import annotations

import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from job_service import claimed
from live_service import serving, settings
from race_service import stored

from headstart.entities import CheckpointDraft, LineageVerdict, RowsDraft, ScoreDraft, TargetDraft
from headstart.refit import refit_stale
from headstart.store import Store, upgrade_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from live_service import Live

FAMILY = "org/mini"  # slashes in a family's name are part of its path
TUNED = ("me/rte-0", "me/rte-1", "me/mnli-0", "me/mnli-1", "me/mnli-2", "me/sst2-0")
STRANGER = "me/stranger"
PUBLISHED = "org/published"  # a name that scores brought: the hub may have it, but nobody registered it
HUB = {"source": "hub"}
NAMELESS = "a run (1)"  # whose weights nobody has
UNSEEN = "unseen"  # a family that nobody has looked at, with a vanilla and three others


@contextmanager
def regional(store: Store, folder: Path, **given: Any) -> Iterator[Live]:
    """Serve them, without a worker."""
    rows = folder / "rows"
    rows.write_bytes(b"as a worker reads them")
    drafts = [CheckpointDraft(family=FAMILY, name=FAMILY, is_vanilla=True, parameters=10)]
    for name in TUNED:
        source = name.removeprefix("me/").split("-")[0]
        told = HUB | {"finetuned_on": source, "finetuned_on_fingerprint": f"rows of {source}"}
        drafts.append(CheckpointDraft(family=FAMILY, name=name, parameters=10, details=told))
    drafts.append(CheckpointDraft(family=FAMILY, name=STRANGER, parameters=10, details=HUB))
    drafts += [CheckpointDraft(family=FAMILY, name=name, parameters=10) for name in (PUBLISHED, NAMELESS)]
    drafts += [
        CheckpointDraft(family=UNSEEN, name=f"me/u{k}", is_vanilla=k == 0, details=HUB) for k in range(4)
    ]
    scores = tuple(
        ScoreDraft(
            family=one.family,
            checkpoint=one.name,
            target=target,
            method="finetune",
            value=0.5 + 0.02 * at,
            seed=seed,
        )
        for at, one in enumerate(drafts[:-4])
        for target in ("sick", "wic", "trec")
        for seed in (0, 1)
    )
    stored(
        store,
        checkpoints=tuple(drafts),
        targets=(TargetDraft(name="rte"), TargetDraft(name="mnli")),
        scores=scores,
        rows=RowsDraft(target="rte", fingerprint="rows of rte", profile={"rows": {"test": 5}}, file=rows),
    )
    refit_stale(store)
    with serving(store, settings(**{"webhook_secret": "s"} | given)) as live:
        yield live


@contextmanager
def shared_region(folder: Path) -> Iterator[Live]:
    """The same over a store of its own, for all tests of a module."""
    url = f"sqlite:///{folder}/store.db"
    upgrade_schema(url)
    with closing(Store(url)) as store, regional(store, folder) as live:
        yield live


def without_jobs(live: Live) -> Live:
    """Once nothing waits that another test has submitted."""
    for job in live.store.jobs(state="queued", page_size=500).items:
        live.store.cancel_job(job.id)
    return live


@contextmanager
def at_work(live: Live, end: Callable[[Live], None]) -> Iterator[None]:
    """Somebody who ends the first job that comes in the meantime."""

    def work() -> None:
        until = time.monotonic() + 10
        while not live.store.jobs(state="queued").items:
            if time.monotonic() > until:
                return
            time.sleep(0.02)
        end(live)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join(10)


def path(what: str = "regions", family: str = FAMILY) -> str:
    return f"/families/{family}/{what}"


def id_of(live: Live, name: str) -> int:
    (found,) = live.store.checkpoints_named([name])[name]
    return found.id


def result_of(live: Live, **changes: Any) -> dict[str, Any]:
    """Two regions, one by mnli and one by rte, and others in none."""
    regions = {"me/mnli-0": 1, "me/mnli-1": 1, "me/mnli-2": 1, "me/rte-0": 2, "me/rte-1": 2}
    members = [
        {
            "id": id_of(live, name),
            "name": name,
            "source": None if name == STRANGER else name.removeprefix("me/").split("-")[0],
            "region": regions.get(name),
            "norm": 1.25,
            "x": None if name == STRANGER else 0.1 * at,
            "y": None if name == STRANGER else -0.1 * at,
            "lineage": "contradicted" if name == STRANGER else "verified",
            "reason": "It lies 1.41 norms away." if name == STRANGER else "It lies 0.02 norms away.",
        }
        for at, name in enumerate((*TUNED, STRANGER))
    ]
    found = [
        {
            "number": number,
            "name": name,
            "members": [id_of(live, one) for one, of in regions.items() if of == number],
            "tightness": 0.26,
            "separation": 0.02,
            "stability": 0.97,
            "sources": {name: sum(of == number for of in regions.values())},
        }
        for number, name in ((1, "mnli"), (2, "rte"))
    ]
    return {
        "family": FAMILY,
        "dims": 65536,
        "noise": 1 / 256,
        "members": members,
        "regions": found,
        "purity": 1.0,
        "rand": 0.9,
        "copies": [],
        "chosen_by": "The weights show 2 regions.",
        "diagnostics": {"eigenvalues": [2.0, 1.5]},
        "left_out": [
            {"id": 99, "name": "me/broken", "failure": "Refused", "sentence": "A shard of it is cut short."}
        ],
        "cosine": {"within": 0.26, "between": 0.02},
    } | changes


def search(live: Live, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The job of a request that was accepted."""
    answer = live.http.post(path(), json=body or {})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/jobs/{answer.json()['job']['id']}"
    job: dict[str, Any] = answer.json()["job"]
    return job


def found(live: Live, body: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """What is shown once a worker has found the regions."""
    search(live, body)
    end(live, **changes)
    shown: dict[str, Any] = live.http.get(path()).json()
    return shown


def end(live: Live, **changes: Any) -> None:
    """As a worker ends the search for regions that is first in line."""
    job, result = claimed(live.store), result_of(live, **changes)
    assert job.method == "regions"
    lineages = [
        LineageVerdict(checkpoint_id=one["id"], lineage=one["lineage"], reason=one["reason"])
        for one in result["members"]
    ]
    assert live.store.finish_job(job.id, job.attempt, None, seconds=1.0, result=result, lineages=lineages)
