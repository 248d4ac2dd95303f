"""What happens to jobs, told to whoever listens: one look at the store for all listeners of a process."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from headstart.entities import JobState
from headstart.errors import HeadstartError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from headstart.entities import JobEvent
    from headstart.store import Store

POLL_SECONDS = 0.25
ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
_log = structlog.get_logger("headstart.service")


class Listener:
    """One who listens to one job, while `Feed.listen` lasts."""

    def __init__(self, feed: Feed, job_id: int) -> None:
        self._feed = feed
        self._job_id = job_id
        self.changed = asyncio.Event()

    async def events(self, after: int) -> AsyncIterator[tuple[str, JobEvent]]:
        """("state" | "progress", event) of all after this revision, as they come, until the job has ended.

        Ends early when the feed closes; a store that does not answer is asked again.
        """
        while not self._feed.closed:
            self.changed.clear()
            try:
                told = tell(await asyncio.to_thread(self._feed.store.job_events, self._job_id))
            except HeadstartError:
                self._feed.look_again(self._job_id)
                told = []
            for kind, event in told:
                if event.revision > after:
                    after = event.revision
                    yield kind, event
            if told and told[-1][1].state in ENDED:
                return
            await self.changed.wait()


class Feed:
    """Looks at the revisions of all jobs listened to, while anybody listens. Lives in one event loop."""

    def __init__(self, store: Store, seconds: float = POLL_SECONDS) -> None:
        self.store = store
        self.closed = False
        self._seconds = seconds
        self._listeners: dict[int, set[Listener]] = {}
        self._seen: dict[int, int] = {}
        self._watcher: asyncio.Task[None] | None = None

    @property
    def listening(self) -> int:
        """How many listen."""
        return sum(map(len, self._listeners.values()))

    @contextmanager
    def listen(self, job_id: int) -> Iterator[Listener]:
        """Listen to a job. Everything that changes from here on is noticed."""
        listener = Listener(self, job_id)
        self._listeners.setdefault(job_id, set()).add(listener)
        if not self.closed and (self._watcher is None or self._watcher.done()):
            self._watcher = asyncio.create_task(self._watch())
        try:
            yield listener
        finally:
            others = self._listeners[job_id]
            others.discard(listener)
            if not others:
                del self._listeners[job_id]
                self._seen.pop(job_id, None)

    def look_again(self, job_id: int) -> None:
        """Wake the listeners of this job at the next look, whether or not it has changed."""
        self._seen.pop(job_id, None)

    def close(self) -> None:
        """End all that listen, now: a server that stops waits for them."""
        self.closed = True
        if self._watcher is not None:
            self._watcher.cancel()
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.changed.set()

    async def _watch(self) -> None:
        answered = True
        while self._listeners:
            try:
                await self._look()
                answered = True
            except Exception as error:  # whatever it is, nobody may be left waiting for ever
                if answered:
                    ours = not isinstance(error, HeadstartError)
                    _log.warning("feed_cannot_look", reason=str(error), exc_info=ours)
                answered = False
            await asyncio.sleep(self._seconds)

    async def _look(self) -> None:
        revisions = await asyncio.to_thread(self.store.job_revisions, tuple(self._listeners))
        for job_id, revision in revisions.items():
            if job_id in self._listeners and self._seen.get(job_id) != revision:
                self._seen[job_id] = revision
                for listener in self._listeners[job_id]:
                    listener.changed.set()


def tell(events: tuple[JobEvent, ...]) -> list[tuple[str, JobEvent]]:
    """Tell changes of state from progress, which leaves state and attempt as they were."""
    before = (None, *events)
    return [
        (
            "progress" if last and (last.state, last.attempt) == (event.state, event.attempt) else "state",
            event,
        )
        for last, event in zip(before, events, strict=False)
    ]
