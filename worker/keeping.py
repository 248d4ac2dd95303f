"""A finetune kept as a checkpoint: written into a folder of its own, whole or not at all, and described."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from headstart import __version__
from headstart.checkpoints.files import CARD, CONFIG
from headstart.checkpoints.kept_card import Provenance, kept_card
from headstart.failures import Interrupted, JobFailure
from worker.checkpoints import read_folder
from worker.classifier import PooledClassifier
from worker.describing import draft_of
from worker.kept_model import HEAD, Units, write_model
from worker.tuned import trained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from headstart.entities import Checkpoint, CheckpointDraft, Target
    from headstart.workbench import FinetuneSpec, Judge
    from worker.checkpoints import CheckpointFiles
    from worker.tuned import Inputs, Report, Trained

DIGITS = 12  # of the digest in a folder's name
LEFT_SECONDS = 24 * 3600.0  # after which a folder that is still being written never will be
FINETUNED = "finetuned checkpoint, whose score is stored,"
_MAKING = ".making-"  # begins the name of a folder that is being written


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is kept."""

    name: str  # of the new checkpoint: a plain one, see `headstart.procedures.keep`
    base: Checkpoint
    target: Target
    card: Mapping[str, Any]  # "score" and "recipe"


def keep(
    inputs: Inputs, spec: FinetuneSpec, judge: Judge, report: Report, *, subject: Subject, root: Path
) -> CheckpointDraft:
    """Finetune, or load the finetune that has ended; write it under the root, and describe it.

    Raises: what a finetune raises, Interrupted (the disk does not take it).
    """
    with trained(inputs, spec, judge, report) as found:

        def write(folder: Path) -> None:
            report(1.0, "keeping the checkpoint", "", None)
            use = _use(found, write_model(found, folder))
            (folder / CARD).write_text(kept_card(_provenance(found, subject, use)), encoding="utf-8")

        slug = subject.name.replace("/", "--")
        files = publish(root, slug, write, lambda: report(1.0, "keeping the checkpoint", "", None))
    return _draft(files, found.files, subject, root)


def publish(
    root: Path, slug: str, write: Callable[[Path], None], report: Callable[[], None], what: str = FINETUNED
) -> CheckpointFiles:
    """Let `write` fill a folder, and give it its name under the root when it is whole: SLUG-DIGEST.

    The same files again find their folder there. `report` is called last before the name is given. `what` is
    written, where a sentence says that it could not be.

    Raises: Interrupted (the disk does not take it), and what the two raise.
    """
    with _told(root, what):
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        making = root / f"{_MAKING}{secrets.token_hex(8)}"
        making.mkdir()
        try:
            write(making)
            _settle(making)
            made = read_folder(making, roots=[root], pickles=False)
            report()
            final = made.folder.with_name(f"{slug}-{made.digest.removeprefix('sha256:')[:DIGITS]}")
            if not _is_there(final, made.digest, root):
                making.rename(final)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    weights = tuple(final / path.name for path in made.weights)
    return replace(made, folder=final, weights=weights)


def _use(found: Trained, units: Units) -> str:
    """How the outputs are to be read, as the card says it."""
    model: Any = found.training.model
    what = "Its outputs are a logit for each class." if found.classes else "Its output is the value."
    if isinstance(model, PooledClassifier):
        over = "last token" if found.body.pooling == "last" else "mean of the tokens"
        what = f"The body has no classifier in transformers: a linear head on the {over} is in {HEAD}."
    if units == Units():
        return what
    return f"{what} Values are {units.centre:.9g} + {units.scale:.9g} times the output."


def _provenance(found: Trained, subject: Subject, use: str) -> Provenance:
    return Provenance(
        name=subject.name,
        base=subject.base,
        digest=found.files.digest,
        target=subject.target,
        rows={role: len(tokens.lengths) for role, tokens in found.tokens.items()},
        classes=found.classes,
        score=subject.card["score"],
        recipe=subject.card["recipe"],
        step=found.step,
        steps=found.training.steps,
        versions={"headstart": __version__} | {name: version(name) for name in ("torch", "transformers")},
        made_at=datetime.now(UTC),
        use=use,
    )


def _draft(files: CheckpointFiles, base: CheckpointFiles, subject: Subject, root: Path) -> CheckpointDraft:
    """As the import of such a folder would describe it, and what it came from."""
    score = subject.card["score"]
    came_from = {
        "base_model": subject.base.name,
        "base_model_told_by": "job",
        "base_id": subject.base.id,
        "base_digest": base.digest,
        "finetuned_on": subject.target.name,
        "finetuned_on_fingerprint": subject.target.fingerprint,
        "finetuned_score": score["value"],
        "finetuned_stderr": score["stderr"],
        "finetuned_seed": score["seed"],
    }
    draft = draft_of(
        files,
        root,
        family=subject.base.family,
        name=subject.name,
        license=subject.base.license,
        came_from=came_from,
    )
    parameters = subject.base.parameters
    return draft if parameters is None else replace(draft, parameters=parameters)


def _settle(folder: Path) -> None:
    """Files that all may read who may read the others, and that outlast a power cut."""
    mode = (folder / CONFIG).stat().st_mode & 0o777  # safetensors gives its files to their owner alone
    for path in (*folder.iterdir(), folder):
        if path != folder:
            path.chmod(mode)
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _is_there(folder: Path, digest: str, root: Path) -> bool:
    """Whether the folder holds these files. One that holds others is broken, and goes."""
    if folder.exists():
        with suppress(JobFailure):
            if read_folder(folder, roots=[root], pickles=False).digest == digest:
                return True
        shutil.rmtree(folder)
    return False


def _sweep(root: Path) -> None:
    """Remove what was being written when its process died."""
    for left_over in root.glob(f"{_MAKING}*"):
        with suppress(OSError):
            if time.time() - left_over.stat().st_mtime > LEFT_SECONDS:
                shutil.rmtree(left_over, ignore_errors=True)


@contextmanager
def _told(root: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        said = getattr(error, "strerror", None) or str(error).splitlines()[0][:300]
        raise Interrupted(
            f"The {what} could not be written to {root}: {said}.",
            "Make room there or let the worker write there (HEADSTART_KEPT), then POST /jobs/{id}/retry.",
        ) from error
