"""The forward pass of a frozen body over tokenised rows: pooled features into files, memory flat in the rows.

Rows go longest first, so that memory runs out early or never, in batches of about equal length that hold a
budget of tokens, padding included. Each layer is pooled while the pass goes by: hidden states are never kept.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headstart.failures import NonFinite, NotApplicable, OutOfMemory, Refused
from headstart.workbench import LAST, MEAN
from worker.bodies import tap
from worker.reading import is_out_of_memory, told_as
from worker.trial import forward_fails

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from jaxtyping import Bool, Float, Int

    from headstart.workbench import Pooling
    from worker.bodies import Body
    from worker.tokens import Tokens
    from worker.vocabulary import Renumbered

# Tokens in a batch, padding included. On a CPU larger ones fall out of its cache: MiniLM was 5 % slower with
# 4096 and 40 % with 16384. On CUDA the number was not measured; it is meant to fill the device and to fit.
BUDGETS = {"cpu": 2048, "cuda": 65_536}
_ASK_LAST = "Ask for the layer 'last'."
SOURCE = "source"  # names the source head's probabilities, beside the layers


@dataclass(slots=True)
class Budget:
    """How many tokens a batch may hold on this device; halved for good when memory runs out."""

    tokens: int
    retries: int = 0

    def fitting(self, lengths: Int[np.ndarray, "n"], start: int, *, padded: bool) -> int:
        """How many rows from `start` on, longest first, make a batch; equally long ones if not padded."""
        most = max(1, self.tokens // int(lengths[start]))
        batch = lengths[start : start + most]
        return len(batch) if padded else int(np.count_nonzero(batch == lengths[start]))

    def halve(self, rows: int, length: int) -> None:
        """A batch of so many rows of that length did not fit."""
        self.tokens = max(length, rows * length // 2)
        self.retries += 1


def run_pass(
    body: Body,
    tokens: Tokens,
    pooling: Pooling,
    files: Mapping[str, Path],
    budget: Budget,
    report: Callable[[float, str, str], None],
) -> dict[str, Any]:
    """Write what `files` names in fp32, in the order of the rows, and return the facts.

    Its names are layers as in FeatureSpec, and SOURCE for the probabilities of a body's source head. Raises:
    NonFinite, OutOfMemory, NotApplicable (no such layer, or not [b, t, d]; a pass that fails), Refused
    (tokens that the embeddings do not have), and what `report` raises.
    """
    check_vocabulary(body, tokens)
    started = time.monotonic()
    order = np.argsort(-tokens.lengths, kind="stable")
    lengths = tokens.lengths[order]
    start, done, padded, retries = 0, 0, 0, budget.retries
    with ExitStack() as opened, torch.inference_mode():
        out = {name: opened.enter_context(_RowFile(path)) for name, path in files.items()}
        while start < len(order):
            report(done / lengths.sum(), "features", f"{start} of {len(order)} rows")
            rows = order[start : start + budget.fitting(lengths, start, padded=body.padded)]
            found = _unless_out_of_memory(partial(_pooled, body, tokens, rows, pooling, out))
            if found is None:
                _back_off(budget, body, len(rows), int(lengths[start]))
                continue
            _check_finite(found, start, len(order))
            for name, values in found.items():
                out[name].write(rows, values)
            done += int(lengths[start : start + len(rows)].sum())
            padded += len(rows) * int(lengths[start])
            start += len(rows)
    return {
        "rows": len(order),
        "tokens": done,
        "padded_tokens": padded,
        "padded": body.padded,
        "forward_seconds": time.monotonic() - started,
        "batch_tokens": budget.tokens,
        "out_of_memory_retries": budget.retries - retries,
    }


def check_vocabulary(body: Body, tokens: Tokens) -> None:
    """Raise Refused where the rows have tokens that the embeddings do not have."""
    if tokens.largest >= body.vocabulary:
        raise Refused(
            f"The tokenizer makes token {tokens.largest}, and the embeddings end at {body.vocabulary - 1}.",
            "Save the tokenizer that belongs to the weights beside them.",
        )


def pool(
    hidden: Float[torch.Tensor, "b t d"], mask: Bool[torch.Tensor, "b t"], pooling: Pooling
) -> Float[torch.Tensor, "b d"]:
    """One vector a row, in fp32: the mean over its tokens (special ones included), its first, or its last.

    What stands at padding does not count, whatever it is. Padding follows the tokens.
    """
    if pooling == "first":
        return hidden[:, 0].float()
    if pooling == "last":
        return hidden[torch.arange(len(mask), device=mask.device), mask.sum(1) - 1].float()
    kept = hidden.float().masked_fill(~mask[..., None], 0.0)
    return kept.sum(1) / mask.sum(1, keepdim=True)


def _pooled(
    body: Body, tokens: Tokens, rows: Int[np.ndarray, "b"], pooling: Pooling, names: Iterable[str]
) -> dict[str, Float[np.ndarray, "b d"]]:
    """One batch: each layer pooled as it passes, and the source head's probabilities."""
    inputs = collate(body, tokens, rows)
    mask = inputs["attention_mask"].bool()
    layers = set(names) - {SOURCE}
    averaged = _averaged(body) if MEAN in layers else ()
    wanted = {*averaged, *layers} - {MEAN}
    found: dict[str, torch.Tensor] = {}
    fired: list[str] = []

    def take(layer: str, hidden: torch.Tensor) -> None:
        fired.append(layer)
        _check_shape(body, layer, hidden, mask)
        pooled = pool(hidden, mask, pooling)
        if layer in averaged:
            found[MEAN] = found[MEAN] + pooled if MEAN in found else pooled
        if layer in layers:
            found[layer] = pooled

    with ExitStack() as taps:
        for layer in wanted:
            taps.enter_context(tap(body, layer, partial(take, layer)))
        with told_as(NotApplicable, *forward_fails(body.architecture, mask.shape[1])):
            output = body.model(**inputs)
    if sorted(fired) != sorted(wanted):
        raise NotApplicable(
            f"The layers of this {body.architecture} do not run once each in a forward pass.", _ASK_LAST
        )
    if MEAN in found:
        found[MEAN] = found[MEAN] / len(averaged)
    if body.classify is not None and SOURCE in names:
        found[SOURCE] = body.classify(output).float().softmax(-1)
    return {name: values.cpu().numpy() for name, values in found.items()}


def _check_shape(body: Body, layer: str, hidden: torch.Tensor, mask: Bool[torch.Tensor, "b t"]) -> None:
    if hidden.shape != (*mask.shape, body.dimension):
        raise NotApplicable(
            f"Layer {layer} of this {body.architecture} gives the shape {tuple(hidden.shape)} where "
            f"{(*mask.shape, body.dimension)} was expected.",
            _ASK_LAST,
        )


def _averaged(body: Body) -> tuple[str, ...]:
    """The layers that MEAN is over: all but the embeddings, the last one behind the final norm."""
    return (*map(str, range(1, body.layers)), LAST)


def collate(body: Body, tokens: Tokens | Renumbered, rows: Int[np.ndarray, "b"]) -> dict[str, torch.Tensor]:
    """The inputs of the body for these rows, padded on the right to the longest."""
    ids = [tokens.ids(int(row)) for row in rows]
    width = max(map(len, ids))
    made = {
        "input_ids": np.full((len(rows), width), body.pad_id, dtype=np.int64),
        "attention_mask": np.zeros((len(rows), width), dtype=np.int64),
    }
    for at, row in enumerate(ids):
        made["input_ids"][at, : len(row)] = row
        made["attention_mask"][at, : len(row)] = 1
    if body.takes_types and tokens.typed:
        made["token_type_ids"] = np.zeros((len(rows), width), dtype=np.int64)
        for at, row in enumerate(rows):
            made["token_type_ids"][at, : len(ids[at])] = tokens.types(int(row))
    return {name: torch.from_numpy(array).to(body.model.device) for name, array in made.items()}


def _unless_out_of_memory(step: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """What the step finds; None where memory ran out. All it held is free again when this returns."""
    try:
        return step()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None


def _back_off(budget: Budget, body: Body, rows: int, length: int) -> None:
    device = body.model.device
    if rows == 1:
        raise OutOfMemory(f"One text of {length} tokens does not fit into the memory of {device.type}.")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    budget.halve(rows, length)


def _check_finite(found: Mapping[str, Float[np.ndarray, "b d"]], start: int, count: int) -> None:
    for name, values in found.items():
        bad = int(np.sum(~np.isfinite(values).all(axis=1)))
        if bad:
            what = "probabilities of the source head" if name == SOURCE else f"features of layer {name}"
            raise NonFinite(
                f"The {what} are NaN or infinite on {bad} of {len(values)} rows "
                f"(rows {start + 1} to {start + len(values)} of {count}, longest first).",
                "Check the checkpoint's weights for NaN, or ask for precision fp32.",
            )


class _RowFile:
    """A file of rows of one width, written in any order."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _RowFile:
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def write(self, rows: Int[np.ndarray, "b"], values: Float[np.ndarray, "b d"]) -> None:
        """Write each row at its place."""
        size = values.shape[1] * values.itemsize
        for row, line in zip(rows.tolist(), np.ascontiguousarray(values), strict=True):
            os.pwrite(self._file, line, row * size)
