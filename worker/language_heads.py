"""What a language model's objective asks of the rows, and the heads that answer: a checkpoint's own, or new.

A head stands still while the body moves. The checkpoint's own has its decoder tied to the embeddings, as a
rule: it then keeps a copy of them as they are in the checkpoint, over the whole vocabulary, while the body's
move. Where the checkpoint has none, a linear head from the hidden states to the tokens that are masked
somewhere is fitted to convergence on the hidden states at the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.auto import modeling_auto as auto

from headstart.failures import NotApplicable, Refused
from headstart.logistic import fit_logistic, principal_axes
from headstart.workbench import LinearHead
from worker.configs import read_config
from worker.reading import told_as
from worker.row_losses import Targets
from worker.weights import Weights

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8
    from transformers import PretrainedConfig, PreTrainedModel

    from headstart.workbench import Objective
    from worker.bodies import Body
    from worker.checkpoints import CheckpointFiles
    from worker.row_losses import Logits, Moving
    from worker.tokens import Tokens


TRIAL_TOKENS = 9  # of the text on which the head alone is compared with the whole model
NEAR = 1e-3  # of the logits' largest


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Rows that have something to predict, and what. As `worker.tokens.Tokens` for making batches."""

    tokens: Tokens
    chosen: Int[np.ndarray, "n"]  # which rows of the tokens
    places: list[Int[np.ndarray, "k"]]  # of each, where something stands that is predicted
    wanted: list[Int[np.ndarray, "k"]]  # the tokens there
    mask: int | None  # what stands there instead; None: the hidden state before the place predicts it

    @property
    def typed(self) -> bool:
        """See Tokens."""
        return self.tokens.typed

    @property
    def lengths(self) -> Int[np.ndarray, "n"]:
        """See Tokens."""
        found: Int[np.ndarray, "n"] = self.tokens.lengths[self.chosen]
        return found

    def types(self, row: int) -> UInt8[np.ndarray, "t"]:
        """See Tokens."""
        return self.tokens.types(int(self.chosen[row]))

    def ids(self, row: int) -> Int[np.ndarray, "t"]:
        """See Tokens: what the body is given."""
        found = self.tokens.ids(int(self.chosen[row]))
        if self.mask is None:
            return found
        masked = found.copy()
        masked[self.places[row]] = self.mask
        return masked

    def used(self) -> Int[np.ndarray, "u"]:
        """See Tokens."""
        return np.unique(np.concatenate([self.ids(row) for row in range(len(self.chosen))]))

    def targets(self, outputs: Int[np.ndarray, "z"] | None = None) -> Targets:
        """The places that predict, and the outputs that are right: tokens, or their places in `outputs`."""
        wanted = self.wanted
        if outputs is not None:
            wanted = [np.searchsorted(outputs, one) for one in wanted]
        return Targets(
            places=self.places if self.mask is not None else [one - 1 for one in self.places], wanted=wanted
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnHead:
    """A checkpoint's head over its vocabulary."""

    logits: Logits
    outputs: int


def ask(body: Body, tokens: Tokens, objective: Objective, mask_share: float, seed: int) -> Asked:
    """What of the rows is to be predicted.

    For masked-lm `mask_share` of a row's tokens, special ones left out, one at least: drawn from seed and
    row, and all replaced by the mask token. For causal-lm every token but the first.

    Raises: NotApplicable (no mask token, a body of the other kind, rows without anything to predict).
    """
    kind, mask = body.architecture, None
    if (objective == "causal-lm") != body.causal:
        raise NotApplicable(
            f"{objective} does not apply to a {kind} that "
            f"{'reads from left to right' if body.causal else 'sees the tokens that come after'}.",
            f"Ask for the objective {'causal-lm' if body.causal else 'masked-lm'}.",
        )
    if not body.causal:
        mask = body.tokenizer.mask_token_id
        if mask is None or mask >= body.vocabulary:
            raise NotApplicable(
                f"The tokenizer of this {kind} has no mask token that the embeddings know.",
                "Ask for the objective classification.",
            )
    special = np.array(body.tokenizer.all_special_ids, dtype=np.int64)
    chosen, places, wanted = [], [], []
    for row in range(len(tokens.lengths)):
        ids = tokens.ids(row)
        if mask is None:
            at = np.arange(1, len(ids))
        else:
            at = np.flatnonzero(~np.isin(ids, special))
            count = min(len(at), max(1, round(mask_share * len(at))))
            at = np.sort(np.random.default_rng((seed, row)).choice(at, count, replace=False))
        if len(at):
            chosen.append(row)
            places.append(at)
            wanted.append(ids[at].astype(np.int64))
    if not chosen:
        raise NotApplicable(
            f"None of the {len(tokens.lengths)} train rows has a token to predict.",
            "Give the target texts by POST /targets.",
        )
    return Asked(tokens=tokens, chosen=np.array(chosen), places=places, wanted=wanted, mask=mask)


def own_head(files: CheckpointFiles, body: Body, objective: Objective) -> tuple[OwnHead | None, str]:
    """The checkpoint's own head over its vocabulary, frozen; or None, and why it has none.

    It has one if all its tensors are there; a decoder that is tied is there with the embeddings. The head is
    tried beside the whole model on a short text, before the body may move.

    Raises: Refused, OutOfMemory.
    """
    weights = Weights(files.weights)
    config = read_config(files.folder, weights.shapes)
    mapping = auto.MODEL_FOR_CAUSAL_LM_MAPPING if body.causal else auto.MODEL_FOR_MASKED_LM_MAPPING
    if config.is_encoder_decoder or type(config) not in mapping:
        return None, f"a {config.model_type} has no head for {objective}"
    model, lost = _loaded(mapping[type(config)], config, weights)
    if lost:
        return None, f"its weights are not there ({', '.join(lost[:3])})"
    model.to(body.model.device).eval().requires_grad_(False)
    base: Any = model.base_model
    text = torch.arange(TRIAL_TOKENS, device=body.model.device)[None] % body.vocabulary
    with torch.no_grad():
        whole = model(input_ids=text).logits[0]
    _only_embeddings(base)

    def logits(hidden: Float[torch.Tensor, "m d"], _: Moving) -> Float[torch.Tensor, "m z"]:
        base.forward = lambda *_, **__: BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden[None]
        )
        given = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
        found: torch.Tensor = model(input_ids=given).logits[0]
        return found

    failed = NotApplicable, f"The head of this {config.model_type} does not run by itself"
    with told_as(*failed, "Ask for the objective classification."), torch.no_grad():
        apart = logits(body.backbone(input_ids=text)[0][0], {})
    off = (apart - whole).abs().max() if apart.shape == whole.shape else torch.tensor(torch.inf)
    if not off <= NEAR * whole.abs().max():
        return None, f"the head of a {config.model_type} reads more than the last hidden states"
    return OwnHead(logits=logits, outputs=whole.shape[1]), ""


def _loaded(kind: Any, config: PretrainedConfig, weights: Weights) -> tuple[PreTrainedModel, list[str]]:
    """The model with its head, and the tensors of the head that the weights do not have."""
    with told_as(Refused, f"The weights do not fit a {config.model_type}", "Save the checkpoint again."):
        model, found = kind.from_pretrained(
            None,
            config=config,
            state_dict=weights.tensors(),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()  # out of the mapped file, which may change under us
    faulty = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    return model, sorted(name for name in faulty if not name.startswith(f"{model.base_model_prefix}."))


def _only_embeddings(base: PreTrainedModel) -> None:
    """Give the memory of a body back, but for the table that its head may share."""
    kept = {id(parameter) for parameter in base.get_input_embeddings().parameters()}
    for parameter in base.parameters():
        if id(parameter) not in kept:
            parameter.data = parameter.data.new_empty(0)


def fit_head(
    hidden: Float[np.ndarray, "m d"], wanted: Int[np.ndarray, "m"], outputs: Int[np.ndarray, "z"]
) -> tuple[LinearHead, dict[str, Any]]:
    """The linear head of least loss on hidden states, each with the token that stood there; and its facts.

    The loss is that of `headstart.logistic`, its penalty that of a prior N(0, 1) of every weight on
    standardised axes.

    Raises: NotApplicable (all tokens are the same).
    """
    if len(outputs) < 2:
        raise NotApplicable(
            "All masked tokens of the rows are the same, so there is nothing to predict.",
            "Give the target more train rows, or mask more of them (mask_share).",
        )
    axes = principal_axes(hidden)
    l2 = 1 / len(hidden)
    found = fit_logistic(axes.of(hidden), np.searchsorted(outputs, wanted), l2, axes.variance)
    weights = axes.turn.astype(np.float64) @ found.weights.T
    bias = found.bias - axes.centre.astype(np.float64) @ weights
    facts = {
        "l2": l2,
        "loss_a_token": found.loss,
        "steps": found.steps,
        "converged": found.converged,
        "gain_left": found.gain,
        "tokens": len(hidden),
    }
    return LinearHead(weights=weights, bias=bias), facts
