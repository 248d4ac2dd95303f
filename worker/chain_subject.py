"""What chains are run on: a checkpoint's body, the rows, what is asked of them, and the head that answers."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from headstart.failures import NonFinite, NotApplicable
from worker.bodies import load_body
from worker.device import pick_device, pick_dtype
from worker.forward import check_vocabulary
from worker.language_heads import ask, fit_head, own_head
from worker.row_losses import Classification, Linear, Prediction, RowLoss
from worker.tokens import open_tokens
from worker.vocabulary import MOST_PAD_ID, SmallerTable, used_only

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float

    from headstart.workbench import ChainSpec
    from worker.bodies import Body
    from worker.language_heads import Asked
    from worker.row_losses import Objective, Targets
    from worker.tokens import Tokens
    from worker.tuned import Inputs
    from worker.vocabulary import Renumbered

    Tick = Callable[[], None]
    Seen = tuple[Body, Tokens | Renumbered]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A loss, and the checkpoint's values of what moves in it."""

    loss: RowLoss
    centre: dict[str, torch.Tensor]
    facts: dict[str, Any]


@contextmanager
def subject(inputs: Inputs, spec: ChainSpec, tick: Tick) -> Iterator[Subject]:
    """Load the body, tokenise the rows, find or fit the head. `tick` is called now and then, and may raise.

    Raises what `Workbench.loss_chains` says.
    """
    if spec.objective == "classification" and inputs.rows.head.classes is None:
        raise NotApplicable(
            "The target is a regression, and a classification needs classes.",
            "Ask for the objective masked-lm or causal-lm, which read the texts alone.",
        )
    device = pick_device()
    body = load_body(inputs.files, device, torch.float32, with_head=False)
    tokens = _tokens(inputs, spec, body, tick)
    try:
        check_vocabulary(body, tokens)
        (body, seen), objective, head, moving = _objective(inputs, spec, body, tokens, tick)
        loss = RowLoss(
            body=body, tokens=seen, objective=objective, dtype=pick_dtype(device, spec.precision), tick=tick
        )
        moving |= dict(body.backbone.named_parameters())
        centre = {name: one.detach() for name, one in moving.items() if one.is_floating_point()}
        read = loss.fit(centre, loss.longest(spec.batch_rows))
        centre = {name: one for name, one in centre.items() if name in read}
        facts = {
            "head": head,
            "checkpoint": inputs.files.digest,
            "architecture": body.architecture,
            "rows": loss.rows,
            "rows_without_tokens_to_predict": len(tokens.lengths) - loss.rows,
            "tokens": int(loss.lengths.sum()),
            "truncated": tokens.truncated / len(tokens.lengths),
            "max_tokens": _most_tokens(spec, body),
            "embeddings_moved": int(body.backbone.get_input_embeddings().weight.shape[0]),
            "tensors_moved": len(centre),
        }
        yield Subject(loss=loss, centre=centre, facts=facts)
    finally:
        tokens.close()


def _tokens(inputs: Inputs, spec: ChainSpec, body: Body, tick: Tick) -> Tokens:
    count = min(spec.most_rows, inputs.rows.head.sizes.get("train", 0))
    if count == 0:
        raise NotApplicable("The target has no train rows.", "Give it rows by POST /targets.")
    return open_tokens(
        body.tokenizer,
        body.tokenizer_digest,
        inputs.rows,
        "train",
        most_rows=count,
        max_tokens=_most_tokens(spec, body),
        cache=inputs.cache,
        report=lambda *_: tick(),
    )


def _most_tokens(spec: ChainSpec, body: Body) -> int:
    return min(spec.max_tokens, body.most_tokens or spec.max_tokens)


def _objective(
    inputs: Inputs, spec: ChainSpec, body: Body, tokens: Tokens, tick: Tick
) -> tuple[Seen, Objective, dict[str, Any], dict[str, torch.Tensor]]:
    """The body with its rows, what is asked of them, facts on the head, and what of the head moves."""
    device = body.model.device
    if spec.objective == "classification":
        if spec.head is None:
            raise ValueError("A classification needs a head.")
        linear = Linear(spec.head, device)
        asked = Classification(linear, inputs.rows.labels("train", spec.most_rows), body.pooling)
        moving = dict(linear.tensors) if spec.moves_head else {}
        return _used_only(body, tokens), asked, {"kind": "given", "moves": spec.moves_head}, moving
    if spec.moves_head:
        raise NotApplicable(
            f"The head of {spec.objective} stays frozen.", "Leave the head frozen, or ask for classification."
        )
    predicted = ask(body, tokens, spec.objective, spec.mask_share, spec.seed)
    count = sum(map(len, predicted.wanted))
    each = count / float(predicted.lengths.sum())
    told: dict[str, Any] = {"moves": False, "tokens_predicted": count}
    own, why_not = own_head(inputs.files, body, spec.objective)
    if own is not None:
        told |= {"kind": "own", "outputs": own.outputs}
        logits, targets, outputs = own.logits, predicted.targets(), own.outputs
    elif spec.objective == "causal-lm":
        raise NotApplicable(
            f"This {body.architecture} has no head for causal-lm: {why_not}.",
            "Use the checkpoint that was saved with its head, or ask for classification.",
        )
    else:
        known = np.unique(np.concatenate(predicted.wanted))
        outputs, targets = len(known), predicted.targets(known)
        head, facts = fit_head(
            _hidden(body, predicted, targets, tick), np.concatenate(predicted.wanted), known
        )
        told |= {"kind": "fitted", "outputs": outputs, "why": why_not, **facts}
        logits = Linear(head, device)
    return _used_only(body, cast("Tokens", predicted)), Prediction(targets, logits, each * outputs), told, {}


def _hidden(body: Body, rows: Asked, targets: Targets, tick: Tick) -> Float[np.ndarray, "m d"]:
    """The hidden states that predict, in the order of the rows and of their places, at the checkpoint."""
    prediction = Prediction(targets, lambda x, _: x, 0.0)
    tokens = cast("Tokens", rows)
    loss = RowLoss(body=body, tokens=tokens, objective=prediction, dtype=torch.float32, tick=tick)
    found: list[Float[np.ndarray, "k d"]] = [np.empty(0)] * loss.rows
    with torch.no_grad():
        for part in loss.parts(np.arange(loss.rows)):
            seen, of = prediction.seen(loss.hidden({}, part)[0], part)
            ends = np.cumsum(np.bincount(of))[:-1]
            for row, one in zip(part.tolist(), np.split(seen.float().cpu().numpy(), ends), strict=True):
                found[row] = one
    hidden = np.concatenate(found)
    if not np.isfinite(hidden).all():
        raise NonFinite(
            "The hidden states at the checkpoint are NaN or infinite.",
            "Check the checkpoint's weights for NaN.",
        )
    return hidden


def _used_only(body: Body, tokens: Tokens) -> Seen:
    """The body with a table of these rows' tokens, where it can have one; and the rows as it takes them."""
    smaller = used_only(body, [tokens])
    if smaller is not None:
        return body, smaller.of(tokens)
    whole = body.backbone.get_input_embeddings()
    if not (body.causal and type(whole) is nn.Embedding and body.pad_id > MOST_PAD_ID):
        return body, tokens
    # A decoder's padding lies at the end of its table, and stands behind all tokens, where none sees it.
    padding, whole.padding_idx = whole.padding_idx, None
    kept = np.union1d(tokens.used(), [body.pad_id])
    smaller = SmallerTable(body, kept)
    whole.padding_idx = padding
    if any(one is whole.weight for _, one in body.backbone.named_parameters(remove_duplicate=False)):
        body.backbone.set_input_embeddings(whole)
        return body, tokens
    return replace(body, pad_id=int(np.searchsorted(kept, body.pad_id))), smaller.of(tokens)
