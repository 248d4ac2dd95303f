"""The queue is a doorbell: it wakes a worker, and the store says what there is to do.

A message is a knock. It carries a job's id and nothing else, and losing or repeating one changes nothing:
who is woken runs the jobs first in line for a while and, if more wait, knocks for the next. So a few knocks
do for any number of jobs, and a line that nobody was woken for is rung for again (`headstart.upkeep`).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from celery import Celery

QUEUES = ("cpu", "gpu")
RUN_JOB = "headstart.run_job"
MOST_KNOCKS = 100  # at a time: as many workers are woken at once; each knock goes on until the line is empty
SLACK_SECONDS = 3600.0  # by which the broker waits longer for an acknowledgement than a job may run
CONNECT_SECONDS = 2.0
# A sender does not wait for a broker that is gone: once, and once more in case the connection was stale.
IMPATIENT = {"max_retries": 1, "interval_start": 0.0, "interval_step": 0.1, "interval_max": 0.1}


class Queue(Protocol):
    """Wakes workers."""

    def ring(self, jobs: Iterable[tuple[int, str]]) -> bool:
        """Wake workers for these (job id, queue), at most MOST_KNOCKS for each queue.

        False, and no exception, where nobody could be reached.
        """
        ...

    def depth(self, queue: str) -> int | None:
        """How many messages wait in a queue; None where that cannot be told."""
        ...


class NullQueue:
    """No broker: workers look into the store by themselves."""

    def ring(self, jobs: Iterable[tuple[int, str]]) -> bool:
        """Wake nobody."""
        return True

    def depth(self, queue: str) -> int | None:
        """There are no messages."""
        return None


class CeleryQueue:
    """Sends the one Celery task by its name, so that the sender needs none of the worker's code."""

    def __init__(self, broker: str) -> None:
        self._app = celery_app(broker)
        self._app.conf.broker_transport_options |= IMPATIENT

    def ring(self, jobs: Iterable[tuple[int, str]]) -> bool:
        """See Queue. Messages that were sent before the broker went away stay sent."""
        try:
            with self._app.producer_or_acquire() as producer:
                for job_id, queue in _knocks(jobs):
                    self._app.send_task(
                        RUN_JOB, (job_id,), queue=queue, producer=producer, ignore_result=True, retry=False
                    )
        except Exception as error:
            if not _of_the_broker(error):
                raise
            return False
        return True

    def depth(self, queue: str) -> int | None:
        """See Queue."""
        try:
            with self._app.connection_or_acquire() as connection:
                return int(connection.default_channel.client.llen(queue))
        except Exception as error:
            if not _of_the_broker(error):
                raise
            return None


def _knocks(jobs: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """The first jobs of each queue: as many as are worth a knock."""
    sent: Counter[str] = Counter()
    for job_id, queue in jobs:
        if sent[queue] < MOST_KNOCKS:
            sent[queue] += 1
            yield job_id, queue


def open_queue(broker: str) -> Queue:
    """The queue behind the broker's URL; none without one."""
    return CeleryQueue(broker) if broker else NullQueue()


def celery_app(broker: str, job_seconds: float = 6 * 3600.0) -> Celery:
    """The Celery app as sender and worker both need it: JSON, late acks, one at a time, no results."""
    from celery import Celery  # noqa: PLC0415 - a third of a second, for those alone who have a broker
    from kombu import Queue as Line  # noqa: PLC0415

    app = Celery("headstart", broker=broker, set_as_current=False)
    transport: dict[str, Any] = {
        # A message not acknowledged for so long is given to another worker; the claim makes that harmless.
        "visibility_timeout": job_seconds + SLACK_SECONDS,
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": 30.0,
        "socket_keepalive": True,
        "retry_on_timeout": False,
        "health_check_interval": 10,
    }
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_pool="threads",
        worker_concurrency=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_enable_remote_control=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=transport,
        task_queues=[Line(name, routing_key=name) for name in QUEUES],
        task_default_queue=QUEUES[0],
        enable_utc=True,
    )
    return app


def _of_the_broker(error: Exception) -> bool:
    """Whether the error says that the broker is not there, rather than that we did something wrong."""
    from kombu.exceptions import OperationalError  # noqa: PLC0415
    from redis.exceptions import RedisError  # noqa: PLC0415

    return isinstance(error, OperationalError | RedisError | OSError | TimeoutError)
