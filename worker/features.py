"""The pooled features of a frozen checkpoint on the rows of a target: one forward pass, kept on disk.

What is equal is computed once: an entry of the cache is a role of a target under a checkpoint, with a part
for each layer. A later job, of any method, reads it and needs neither weights nor tokenizer.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.failures import NotApplicable
from headstart.workbench import LAST, MEAN
from worker.bodies import load_body
from worker.device import device_name, pick_device, pick_dtype
from worker.forward import BUDGETS, SOURCE, Budget, run_pass
from worker.tokens import open_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import torch
    from jaxtyping import Float, Int

    from headstart.rows import RowsFile
    from headstart.workbench import FeatureSpec, Pooling, Role
    from worker.bodies import Body
    from worker.cache import Cache, Entry
    from worker.checkpoints import CheckpointFiles

    Report = Callable[[float, str, str], None]

FORMAT = 2  # raised whenever equal inputs could give other features
TOKENS_SHARE = 0.05  # of a role's progress
SHOWN_KEYS = 5  # of missing and unexpected tensors, in the facts
_ABOUT = "about"
_SECONDS = ("load_seconds", "tokenise_seconds", "forward_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the feature pass must know of a body before it is loaded."""

    architecture: str
    layers: int
    dimension: int
    pooling: Pooling
    causal: bool
    most_tokens: int | None
    tokenizer_digest: str
    source_head: bool
    missing: list[str]
    unexpected: list[str]

    @classmethod
    def of(cls, body: Body) -> About:
        """Of a body that is loaded."""
        return cls(
            architecture=body.architecture,
            layers=body.layers,
            dimension=body.dimension,
            pooling=body.pooling,
            causal=body.causal,
            most_tokens=body.most_tokens,
            tokenizer_digest=body.tokenizer_digest,
            source_head=body.classify is not None,
            missing=_shortened(body.loading["missing"]),
            unexpected=_shortened(body.loading["unexpected"]),
        )


class StoredRows:
    """The features of one role, on disk. See `headstart.workbench.Rows`."""

    def __init__(self, entry: Entry, rows: RowsFile, role: Role, count: int) -> None:
        self._entry = entry
        self._rows = rows
        self._role = role
        self._count = count

    @cached_property
    def labels(self) -> Int[np.ndarray, "n"] | Float[np.ndarray, "n"]:
        """See Rows.labels."""
        return self._rows.labels(self._role, self._count)

    def blocks(self, layer: str, size: int = 4096) -> Iterator[Float[np.ndarray, "b d"]]:
        """See Rows.blocks. Each block is read when its turn comes."""
        path = self._entry.path(_part(layer))
        width = path.stat().st_size // (4 * self._count)
        with path.open("rb") as file:
            while (block := np.fromfile(file, np.float32, size * width)).size:
                yield block.reshape(-1, width)

    def array(self, layer: str) -> Float[np.ndarray, "n d"]:
        """See Rows.array."""
        return next(self.blocks(layer, self._count))

    def source_probabilities(self) -> Float[np.ndarray, "n z"] | None:
        """See Rows.source_probabilities."""
        return self.array(SOURCE) if self._entry.path(_part(SOURCE)).exists() else None


class FrozenFeatures:
    """See `headstart.workbench.Features`. Close it after use, so that the cache may let go of its entries."""

    def __init__(
        self, *, files: CheckpointFiles, rows: RowsFile, spec: FeatureSpec, cache: Cache, report: Report
    ) -> None:
        self._files = files
        self._rows = rows
        self._spec = spec
        self._cache = cache
        self._report = report
        self._device = pick_device()
        self._dtype = pick_dtype(self._device, spec.precision)
        self._budget = Budget(BUDGETS[self._device.type])
        self._load_seconds = 0.0
        self._found: dict[Role, _Found] = {}
        self._about = self._look_at_body()
        _check_layers(spec, self._about)
        self._pooling = spec.pooling or self._about.pooling
        self._max_tokens = min(spec.max_tokens, self._about.most_tokens or spec.max_tokens)
        self.dimension = self._about.dimension
        self.classes = rows.head.classes

    def rows(self, role: Role) -> StoredRows:
        """See Features.rows."""
        if role not in self._found:
            count = min(self._spec.max_rows, self._rows.head.sizes.get(role, 0))
            if count == 0:
                raise NotApplicable(f"The target has no {role} rows.", "Register the target with such rows.")
            self._found[role] = self._find(role, count)
        return self._found[role].rows

    @property
    def facts(self) -> dict[str, Any]:
        """How the features came about, of the roles asked for so far.

        Counts and seconds are sums over the passes that made the layers asked for: a row that went through
        two of them counts twice. `rows` are those of each role, and `truncated` is a share. `padded` says
        that texts of several lengths could share a batch, `cached` that this job ran none of the passes.
        """
        passes = [facts for found in self._found.values() for facts in found.passes]

        def total(name: str) -> Any:
            return sum(facts[name] for facts in passes)

        seconds = {name: round(total(name), 3) for name in _SECONDS}
        return {
            "checkpoint": self._files.digest,
            "architecture": self._about.architecture,
            "missing": self._about.missing,
            "unexpected": self._about.unexpected,
            "source_head": self._about.source_head,
            "device": device_name(self._device),
            "dtype": str(self._dtype).removeprefix("torch."),
            "pooling": self._pooling,
            "layers": list(self._spec.layers),
            "dimension": self.dimension,
            "max_tokens": self._max_tokens,
            "rows": {role: found.passes[0]["rows"] for role, found in self._found.items()},
            "tokens": total("tokens"),
            "padded_tokens": total("padded_tokens"),
            "padded": all(facts["padded"] for facts in passes),
            "truncated": total("truncated") / max(1, total("rows")),
            **seconds,
            "batch_tokens": min((facts["batch_tokens"] for facts in passes), default=None),
            "out_of_memory_retries": total("out_of_memory_retries"),
            "cached": bool(passes) and all(found.cached for found in self._found.values()),
        }

    def close(self) -> None:
        """Let go of the files."""
        for found in self._found.values():
            found.entry.close()
        self._found.clear()

    def _look_at_body(self) -> About:
        """What is known of the body; loads it if this is the first time."""
        entry = self._cache.open("abouts", {"made_by": _made_by(), "checkpoint": self._files.digest})
        if entry.facts(_ABOUT) is None:
            with entry.making(self._wait) as making:
                if entry.facts(_ABOUT) is None:
                    (making.folder / _ABOUT).touch()
                    making.keep(asdict(About.of(self._body())))
        about = About(**(entry.facts(_ABOUT) or {}))
        entry.close()
        return about

    def _find(self, role: Role, count: int) -> _Found:
        """The features of a role from the cache, or from a forward pass for the layers that are not there."""
        entry = self._cache.open("features", self._key(role, count))
        cached = True
        if self._missing(entry):
            with entry.making(self._wait) as making:
                if missing := self._missing(entry):
                    cached = False
                    making.keep(self._pass(making.folder, role, count, missing))
        passes: list[dict[str, Any]] = []
        for layer in self._spec.layers:
            facts = entry.facts(_part(layer))
            if facts is not None and facts not in passes:  # seconds tell passes apart
                passes.append(facts)
        return _Found(StoredRows(entry, self._rows, role, count), entry, passes, cached)

    def _pass(self, folder: Path, role: Role, count: int, missing: list[str]) -> dict[str, Any]:
        body = self._body()
        tokens = open_tokens(
            body.tokenizer,
            body.tokenizer_digest,
            self._rows,
            role,
            most_rows=count,
            max_tokens=self._max_tokens,
            cache=self._cache,
            report=_from_to(0.0, TOKENS_SHARE, self._report),
        )
        try:
            report = _from_to(TOKENS_SHARE, 1.0, self._report)
            files = {name: folder / _part(name) for name in missing}
            facts = run_pass(body, tokens, self._pooling, files, self._budget, report)
        finally:
            tokens.close()
        facts |= {"truncated": tokens.truncated, "tokenise_seconds": tokens.seconds}
        facts |= {"load_seconds": self._load_seconds}
        self._load_seconds = 0.0  # told once
        return facts

    def _body(self) -> Body:
        started = time.monotonic()
        body = SHELF.body(self._files, self._device, self._dtype)
        self._load_seconds += time.monotonic() - started
        return body

    def _key(self, role: Role, count: int) -> dict[str, Any]:
        return {
            "made_by": _made_by(),
            "checkpoint": self._files.digest,
            "target": self._rows.head.fingerprint,
            "role": role,
            "rows": count,
            "pooling": self._pooling,
            "max_tokens": self._max_tokens,
            "dtype": str(self._dtype),
            "device": self._device.type,
        }

    def _missing(self, entry: Entry) -> list[str]:
        names = [*dict.fromkeys(self._spec.layers), *([SOURCE] if self._about.source_head else [])]
        return [name for name in names if entry.facts(_part(name)) is None]

    def _wait(self) -> None:
        self._report(0.0, "features", "waiting: another job makes these features")


def open_features(
    *, files: CheckpointFiles, rows: RowsFile, spec: FeatureSpec, cache: Cache, report: Report
) -> FrozenFeatures:
    """The features of a checkpoint on a target, as the spec wants them; each role is computed when asked for.

    `report(fraction, stage, message)` is called at every batch, and may raise to stop. Raises: NotApplicable
    (a layer that the checkpoint does not have), Refused, OutOfMemory, Interrupted (the cache is full).
    """
    return FrozenFeatures(files=files, rows=rows, spec=spec, cache=cache, report=report)


class Shelf:
    """Keeps the body that was loaded last, so that the next target of the same checkpoint loads nothing."""

    def __init__(self) -> None:
        self._kept: tuple[Any, Body] | None = None

    def body(self, files: CheckpointFiles, device: torch.device, dtype: torch.dtype) -> Body:
        """The body of a checkpoint. Raises what `load_body` raises."""
        key = files.digest, device, dtype
        if self._kept is not None and self._kept[0] == key:
            return self._kept[1]
        self._kept = None  # before the next one, so that memory never holds two
        body = load_body(files, device, dtype, with_head=True)
        self._kept = key, body
        return body


SHELF = Shelf()  # of this process


@dataclass(frozen=True, slots=True)
class _Found:
    rows: StoredRows
    entry: Entry
    passes: list[dict[str, Any]]  # facts of each pass that made a layer of the spec
    cached: bool  # this job ran none of them


def _check_layers(spec: FeatureSpec, about: About) -> None:
    for layer in spec.layers:
        if layer != LAST and about.layers == 0:
            raise NotApplicable(
                f"There is no layer {layer}: those of this {about.architecture} cannot be told apart.",
                "Ask for 'last'.",
            )
        if layer not in {LAST, MEAN} and int(layer) > about.layers:
            raise NotApplicable(
                f"There is no layer {layer}: this {about.architecture} has {about.layers}.",
                "Ask for 'last', 'mean', or a layer that the checkpoint has.",
            )


def _from_to(low: float, high: float, report: Report) -> Report:
    """A report for a part of the work, whose 0..1 is low..high of the whole."""
    return lambda fraction, stage, message: report(low + (high - low) * fraction, stage, message)


def _made_by() -> str:
    return f"format {FORMAT}, torch {version('torch')}, transformers {version('transformers')}"


def _part(layer: str) -> str:
    return f"{layer}.f32"


def _shortened(keys: list[str]) -> list[str]:
    more = len(keys) - SHOWN_KEYS
    return [*keys[:SHOWN_KEYS], *([f"and {more} more"] if more > 0 else [])]
