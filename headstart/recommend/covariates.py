"""What is known of a checkpoint before anything was finetuned from it: x in the prior f ~ N(B'x, I).

Groups, each with a ridge variance of its own (`factors`): the intercept; the reference probe (value, and
whether it is missing); metadata (classification head, age, depth, a domain or a distillation in the name);
the tokens of the name, of those that at least 3 measured checkpoints share; and free energy, where at least
3 measured checkpoints have one. Author names are left out: they say nothing of a new author, and with folds
over authors nothing at all.

A family may have a million names. They are read AT_ONCE names at a time, as one text.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float, Int
    from scipy.sparse import csr_matrix

    from headstart.recommend.evidence import FamilyEvidence

INTERCEPT, PROBE, METADATA, TOKEN, FREE_ENERGY = range(5)
DENSE = (INTERCEPT, PROBE, PROBE, METADATA, METADATA, METADATA, METADATA)  # groups of the first columns
PROBE_COLUMN = 1
FEWEST = 3  # measured checkpoints that make a token a column, or free energy
MOST_TOKENS = 400
AT_ONCE = 16_384  # names
YEAR = 365.25 * 86_400  # seconds
OLDEST = 2.0  # years from the family's median at which age is cut
STOP = frozenset([
    "base", "bert", "cased", "deberta", "en", "fine", "finetuned", "flan", "for", "model", "of", "on",
    "roberta", "the", "tuned", "uncased",
])  # fmt: skip
DOMAINS = (b"distil", b"bio", b"sci", b"clinical", b"legal", b"med", b"chem")
_TOKEN = re.compile(r"[a-z]{2,}")
_END = b"."  # of a name, among the tokens of many
_LETTERS = bytes(c if chr(c) in "abcdefghijklmnopqrstuvwxyz\n" else ord(" ") for c in range(256))


class Covariates(NamedTuple):
    """The prior's columns for the checkpoints of several families."""

    matrices: tuple[csr_matrix, ...]  # of each family, C x P
    group: Int[np.ndarray, "P"]


def covariates(
    families: Sequence[FamilyEvidence],
    probes: Sequence[Float[np.ndarray, "C"]],
    measured: Sequence[Int[np.ndarray, "M"]],
    energy: Float[np.ndarray, "C"] | None = None,
) -> Covariates:
    """The columns of every family's checkpoints, with one vocabulary of tokens for all.

    Free energies are compared within a family only, so that what the others have says nothing of the first.

    Args:
        families: evidence; names and metadata are read.
        probes: the reference probe of each checkpoint, standardised; NaN: not probed.
        measured: positions of the checkpoints that the fit learns from.
        energy: of the first family's checkpoints, standardised, higher is better; NaN: none. It is a column,
            the last one, where enough is measured to learn its weight.
    """
    from scipy.sparse import csr_matrix, hstack  # noqa: PLC0415 - off the start of the service

    vocabulary = _vocabulary([one.checkpoint_names for one in families], measured)
    matrices = []
    for evidence, probe, rows in zip(families, probes, measured, strict=True):
        dense = csr_matrix(_dense(evidence, probe, rows))
        matrices.append(hstack([dense, _tokens(evidence.checkpoint_names, vocabulary)], format="csr"))
    group = np.array([*DENSE, *(TOKEN for _ in vocabulary)])
    if energy is not None and np.isfinite(energy[measured[0]]).sum() >= FEWEST:
        told = [np.nan_to_num(energy, nan=0.0), *(np.zeros(matrix.shape[0]) for matrix in matrices[1:])]
        both = zip(matrices, told, strict=True)
        matrices = [hstack([matrix, csr_matrix(one[:, None])], format="csr") for matrix, one in both]
        group = np.append(group, FREE_ENERGY)
    return Covariates(tuple(matrices), group)


def tokens_of(name: str) -> set[str]:
    """Words of a checkpoint's name, the author's part before '/' apart: 'a/bert-base-mnli-3' -> {'mnli'}."""
    return set(_TOKEN.findall(name[name.rfind("/") + 1 :].lower())) - STOP


def _vocabulary(names: Sequence[tuple[str, ...]], measured: Sequence[Int[np.ndarray, "M"]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for some, rows in zip(names, measured, strict=True):
        for row in rows.tolist():
            counts.update(tokens_of(some[row]))
    kept = sorted((-count, token) for token, count in counts.items() if count >= FEWEST)
    return {token: at for at, (_, token) in enumerate(kept[:MOST_TOKENS])}


def _tokens(names: tuple[str, ...], vocabulary: dict[str, int]) -> csr_matrix:
    """C x V, 1 where a name has the token: what `tokens_of` says, for a million names."""
    from scipy.sparse import csr_matrix  # noqa: PLC0415 - off the start of the service

    size = len(vocabulary)
    if not size:
        return csr_matrix((len(names), 0))
    number = {token.encode(): at for token, at in vocabulary.items()} | {_END: size}
    found = [np.zeros(0, dtype=np.int32)]
    for start in range(0, len(names), AT_ONCE):
        text = _text([name.rpartition("/")[2] for name in names[start : start + AT_ONCE]])
        tokens = text.translate(_LETTERS).replace(b"\n", b" " + _END + b" ").split()
        columns = np.fromiter(map(number.get, tokens, repeat(-1)), dtype=np.int32, count=len(tokens))
        found.append(columns[columns >= 0])
    columns = np.concatenate(found)
    starts = np.append(0, np.flatnonzero(columns == size) - np.arange(len(names)))
    columns = columns[columns < size]
    table = csr_matrix((np.ones(len(columns)), columns, starts), shape=(len(names), size))
    table.sum_duplicates()
    table.data[:] = 1.0
    return table


def _text(names: Sequence[str]) -> bytes:
    """The names in lower case, each a line that ends, each character a byte."""
    text = "\n".join([*names, ""])
    if text.count("\n") > len(names):
        text = "\n".join([*(name.replace("\n", " ") for name in names), ""])
    return text.lower().encode("ascii", "replace")


def _in_domain(names: tuple[str, ...]) -> Bool[np.ndarray, "C"]:
    """Whether one of DOMAINS is in the name or its author's."""
    found = np.zeros(len(names), dtype=bool)
    for start in range(0, len(names), AT_ONCE):
        text = _text(names[start : start + AT_ONCE])
        ends = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n"))
        for word in DOMAINS:
            at = [match.start() for match in re.finditer(word, text)]
            found[start + np.searchsorted(ends, at)] = True
    return found


def _dense(
    evidence: FamilyEvidence, probe: Float[np.ndarray, "C"], rows: Int[np.ndarray, "M"]
) -> Float[np.ndarray, "C D"]:
    """The columns named in DENSE. Age and depth are told from the family's median; unknown is zero.

    A missing probe is told from how many of the measured miss theirs, so that where all do, or none, what is
    learnt of them is no merit of having been probed.
    """
    missing = np.isnan(probe)
    usual = float(missing[rows].mean()) if len(rows) else 0.0
    age = (evidence.modified - _middle(evidence.modified, rows)) / YEAR
    with np.errstate(invalid="ignore"):
        shallow = evidence.layers < _middle(evidence.layers, rows)
    return np.column_stack(
        [
            np.ones(len(probe)),
            np.where(missing, 0.0, probe),
            missing - usual,
            np.nan_to_num(evidence.classification - 0.5, nan=0.0),
            np.nan_to_num(np.clip(age, -OLDEST, OLDEST), nan=0.0),
            shallow,
            _in_domain(evidence.checkpoint_names),
        ]
    )


def _middle(values: Float[np.ndarray, "C"], rows: Int[np.ndarray, "M"]) -> float:
    known = values[rows][np.isfinite(values[rows])]
    return float(np.median(known)) if len(known) else float("nan")
