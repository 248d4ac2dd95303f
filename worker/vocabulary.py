"""Training only the embeddings of tokens that a target has.

A token without a row gets no gradient, so that leaving its embedding out of the training changes nothing, and
spares the gradient and the optimiser most of the table: of a BERT's 30,522 tokens a small target has 5,000.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Int, UInt8

    from worker.bodies import Body
    from worker.tokens import Tokens

MOST_PAD_ID = 1000  # rows up to the padding's own keep their places; beyond so many that would gain little
WORTH = 0.9  # of the table: where more of it is used, it is left as it is


class SmallerTable:
    """The embeddings of the tokens used, in the place of the whole table. Made by `used_only`."""

    def __init__(self, body: Body, kept: Int[np.ndarray, "u"]) -> None:
        whole = body.backbone.get_input_embeddings()
        self.kept = kept  # their ids, ascending
        self._position = np.full(whole.num_embeddings, -1, dtype=np.int32)
        self._position[kept] = np.arange(len(kept), dtype=np.int32)
        rows = torch.from_numpy(kept).to(whole.weight.device)
        self.table = nn.Embedding(
            len(kept), whole.embedding_dim, padding_idx=whole.padding_idx, _weight=whole.weight.detach()[rows]
        )
        body.backbone.set_input_embeddings(self.table)

    def of(self, tokens: Tokens) -> Renumbered:
        """The tokens of a role as places in the smaller table."""
        return Renumbered(tokens, self._position)


class Renumbered:
    """Tokens, their ids put through a table. As `worker.tokens.Tokens` for making batches."""

    def __init__(self, tokens: Tokens, position: Int[np.ndarray, "v"]) -> None:
        self._tokens, self._position = tokens, position
        self.typed = tokens.typed
        self.lengths: Int[np.ndarray, "n"] = tokens.lengths

    def types(self, row: int) -> UInt8[np.ndarray, "t"]:
        """Which of the two texts each token of a row belongs to."""
        return self._tokens.types(row)

    def ids(self, row: int) -> Int[np.ndarray, "t"]:
        """The places of a row's tokens."""
        return np.asarray(self._position[self._tokens.ids(row)])


def used_only(body: Body, roles: Sequence[Tokens]) -> SmallerTable | None:
    """Put a table of the tokens of these rows in the place of the body's; None: it would be hardly smaller.

    Left alone is a table that is more than that: one that scales, one whose weight another module shares.
    """
    whole = body.backbone.get_input_embeddings()
    last = max(body.pad_id, -1 if whole.padding_idx is None else int(whole.padding_idx))
    if type(whole) is not nn.Embedding or last > MOST_PAD_ID:
        return None
    kept = np.union1d(np.arange(last + 1), np.concatenate([tokens.used() for tokens in roles]))
    if len(kept) > WORTH * whole.num_embeddings:
        return None
    smaller = SmallerTable(body, kept)
    if any(one is whole.weight for _, one in body.backbone.named_parameters(remove_duplicate=False)):
        body.backbone.set_input_embeddings(whole)
        return None
    return smaller
