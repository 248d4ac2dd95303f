"""Reading untrusted files through libraries: whatever they raise becomes a named failure with a sentence."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from headstart.failures import JobFailure, OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHOWN = 300  # characters of what a library said


@contextmanager
def told_as(failure: type[JobFailure], what: str, remedy: str) -> Iterator[None]:
    """Turn any exception of the block into the failure: its sentence is `what`, then the library's words.

    Named failures pass; too little memory is OutOfMemory, whatever was read. A fault of the device passes
    too: it says nothing on what was read.
    """
    try:
        yield
    except (JobFailure, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        said = (str(error).strip().splitlines() or [""])[0][:_SHOWN] or type(error).__name__
        if is_out_of_memory(error):
            raise OutOfMemory(f"{what}: {said}") from error
        if isinstance(error, torch.AcceleratorError):
            raise
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise failure(f"{what}: {said}", remedy) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, CUDA, or torch on a CPU (which has no class for it) found too little memory."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError, OutOfMemory)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
