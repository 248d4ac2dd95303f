"""Named failures: why a job did not succeed, what to do about it, and whether trying again can help.

JobFailure                 a sentence on what happened; name, remedy and `retryable` are the class's
├── NotApplicable          the method does not apply to this checkpoint and target: an outcome, never retried
├── CheckpointNotFound     the weights are not where the checkpoint says
├── TargetNotFound         the rows are not where the target says
├── Refused                an untrusted input asked for what is not allowed (code of its own, a pickle)
├── OutOfMemory            the device or the machine has too little memory
├── NonFinite              the value is NaN or infinite
├── OutOfRange             the value is outside the range its method declares
├── TimedOut               over HEADSTART_JOB_SECONDS
├── Interrupted            a source broke off (network, disk): retried
├── Killed                 the child process died (a signal, a segfault, out of memory): retried
├── WorkerLost             the worker stopped renewing its lease: retried
├── MethodUnknown          this worker does not have the method, or has another version
└── Unexpected             a fault in the method; the worker's log has the traceback

Methods and the workbench raise these; the runner turns any other exception into `Unexpected`.
"""

from __future__ import annotations

from headstart.entities import Failure


class JobFailure(Exception):
    """Base of all named failures. The message is one sentence on what happened, with the value."""

    remedy = "Look at the worker's log for this job id."
    retryable = False

    def __init__(self, sentence: str, remedy: str | None = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        if remedy is not None:
            self.remedy = remedy

    def failure(self) -> Failure:
        """As the store keeps it."""
        return Failure(name=type(self).__name__, sentence=self.sentence, remedy=self.remedy)


class NotApplicable(JobFailure):
    """The method does not apply to this checkpoint and target."""

    remedy = "Choose another method: GET /methods says what each one needs."


class CheckpointNotFound(JobFailure):
    """The weights are not where the checkpoint says."""

    remedy = "Check the checkpoint's name and revision, and that the worker may read them."


class TargetNotFound(JobFailure):
    """The rows are not where the target says."""

    remedy = "Check the target's source, and that the worker may read it."


class Refused(JobFailure):
    """An untrusted input asked for what is not allowed."""

    remedy = "Convert the weights to safetensors; code of a checkpoint is never run."


class OutOfMemory(JobFailure):
    """The device or the machine has too little memory."""

    remedy = "Ask for a smaller batch or fewer tokens, or run the job on a worker with more memory."


class NonFinite(JobFailure):
    """The value is NaN or infinite."""

    remedy = "Lower the learning rate, or check the checkpoint's weights for NaN."


class OutOfRange(JobFailure):
    """The value is outside the range its method declares."""

    remedy = "This is a fault of the method: please report it with the job id."


class TimedOut(JobFailure):
    """The job took longer than HEADSTART_JOB_SECONDS."""

    remedy = "Ask for less (rows, epochs), use a faster worker, or raise HEADSTART_JOB_SECONDS."


class Interrupted(JobFailure):
    """A source broke off."""

    remedy = "Check the network and the disk of the worker, then POST /jobs/{id}/retry."
    retryable = True


class Killed(JobFailure):
    """The child process died."""

    remedy = "Most often memory: give the worker more, or ask for less. Then POST /jobs/{id}/retry."
    retryable = True


class WorkerLost(JobFailure):
    """The worker stopped renewing its lease."""

    remedy = "Look whether the worker's machine went down or ran out of memory; then POST /jobs/{id}/retry."
    retryable = True


class MethodUnknown(JobFailure):
    """This worker does not have the method, or has another version of it."""

    remedy = "Upgrade service and workers to the same version, with the same HEADSTART_METHODS."


class Unexpected(JobFailure):
    """A fault in the method."""

    remedy = "The worker's log has the traceback under this job id: please report it."


FAILURES: dict[str, type[JobFailure]] = {
    failure.__name__: failure
    for failure in (
        NotApplicable,
        CheckpointNotFound,
        TargetNotFound,
        Refused,
        OutOfMemory,
        NonFinite,
        OutOfRange,
        TimedOut,
        Interrupted,
        Killed,
        WorkerLost,
        MethodUnknown,
        Unexpected,
    )
}
