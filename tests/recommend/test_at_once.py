"""What is worked out for many cells or names at once is what it is one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from headstart.recommend import factors
from headstart.recommend.covariates import DENSE, DOMAINS, covariates, tokens_of
from headstart.recommend.factors import Fit, Problem, inner
from headstart.recommend.fit import _doubt
from tests.recommend.evidence_of import evidence_of

NAMES = [
    "mnli", "", "a/", "/mnli", "a/b/bert-SQuAD.mnli", "a/mnli-mnli_MNLI2mnli", "a/cafémnli-mnli",
    "mnli/squad", "a/new\nline-mnli", "\n", "İmnli/mnliİsquad", "a/mnli\N{KELVIN SIGN}-squad",
    "a/\0mnli.squad\r\n", ".", "a/squad/", "a/mnli\udcffsquad", "a/ｍｎｌｉ-mnli", "bio/x",
    "a/DistilBERT-mnli", "a/medal", "a/sc-i", "sci\n/ence", "d\nistil",
]  # fmt: skip


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.recommend.covariates.AT_ONCE", 3)
    monkeypatch.setattr("headstart.recommend.factors.CELLS_AT_ONCE", 7)
    monkeypatch.setattr("headstart.recommend.fit.CELLS_AT_ONCE", 7)
    monkeypatch.setattr("headstart.recommend.fit.ROWS_AT_ONCE", 3)


def _columns(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Domain and tokens of every name, every checkpoint measured; three more have the two tokens."""
    known = [*names, *(f"a/mnli-squad-{i}" for i in range(3))]
    evidence = replace(evidence_of(np.ones((len(known), 1))), checkpoint_names=("a/vanilla", *known))
    rows = np.arange(1, len(known) + 1)
    found = covariates([evidence], [np.full(len(known) + 1, np.nan)], [rows])
    table = found.matrices[0].toarray()
    return table[1 : len(names) + 1, len(DENSE) - 1], table[1 : len(names) + 1, len(DENSE) :]


@pytest.mark.usefixtures("few_at_once")
def test_many_names_have_the_tokens_of_each() -> None:
    _, tokens = _columns(NAMES)
    texts = [tokens_of(name) for name in NAMES]
    counts = {word: sum(word in text for text in texts) + 3 for word in ("mnli", "squad")}
    order = sorted(counts, key=lambda word: (-counts[word], word))
    assert tokens.tolist() == [[float(word in text) for word in order] for text in texts]


@pytest.mark.usefixtures("few_at_once")
def test_many_names_tell_the_domain_of_each() -> None:
    domain, _ = _columns(NAMES)
    words = [word.decode() for word in DOMAINS]
    assert domain.tolist() == [float(any(word in name.lower() for word in words)) for name in NAMES]
    assert 0 < domain.sum() < len(NAMES)


@pytest.mark.parametrize("share", [1.0, 0.3, 0.01])
def test_inner_product_at_every_cell(share: float) -> None:
    rng = np.random.default_rng(0)
    rows, targets = rng.normal(size=(40, 5)), rng.normal(size=(30, 5))
    row, target = np.nonzero(rng.random((40, 30)) < share)
    one_by_one = [rows[m] @ targets[t] for m, t in zip(row, target, strict=True)]
    assert inner(rows, targets, row, target) == pytest.approx(np.array(one_by_one), abs=1e-12)


def _problem(rng: np.random.Generator, share: float) -> Problem:
    """Two families of 15 and 10 checkpoints, some cells with a standard error of their own."""
    row, target = np.nonzero(rng.random((25, 8)) < share)
    count = len(row)
    return Problem(
        covariates=csr_matrix(np.column_stack([np.ones(25), rng.normal(size=(25, 2))])),
        group=np.array([0, 1, 1]),
        weight=np.where(np.arange(25) < 15, 1.0, 0.05),
        family=(np.arange(25) >= 15).astype(int),
        row=row,
        target=target,
        z=rng.normal(size=count),
        effective=rng.uniform(0.5, 3, count),
        told=np.where(rng.random(count) < 0.3, rng.uniform(0.01, 0.5, count), np.nan),
        seed_noise=np.where(rng.random((2, 8)) < 0.8, rng.uniform(0.05, 0.5, (2, 8)), np.nan),
    )


@pytest.mark.parametrize("share", [0.7, 0.06])
def test_expected_square_of_every_cell(share: float) -> None:
    fit = Fit(_problem(np.random.default_rng(1), share)).run()
    found = {line: fit.squares(line=line).of(slice(None)) for line in (False, True)}
    for cell, (m, t) in enumerate(zip(fit.p.row, fit.p.target, strict=True)):
        f, s = fit.factors[m], fit.loadings[t]
        h = np.append(1.0, f)
        error2 = (fit.p.z[cell] - fit.mean[t] - s @ f) ** 2 + s @ fit.covariance[m] @ s
        assert found[False][cell] == pytest.approx(error2)
        assert found[True][cell] == pytest.approx(error2 + h @ fit.uncertainty[t] @ h)


def test_the_size_of_a_block_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Fit(_problem(np.random.default_rng(2), 0.5)).run()
    monkeypatch.setattr(factors, "CELLS_AT_ONCE", 7)
    parts = Fit(_problem(np.random.default_rng(2), 0.5)).run()
    assert len(parts.blocks) > 5 > len(whole.blocks)
    for name in ("factors", "covariance", "mean", "loadings", "residual", "student", "slopes"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-9)


@pytest.mark.usefixtures("few_at_once")
def test_doubt_is_one_and_the_quadratic_form_of_every_row() -> None:
    rng = np.random.default_rng(3)
    table = rng.normal(size=(10, 4)) * (rng.random((10, 4)) < 0.5)
    root = rng.normal(size=(4, 4))
    expected = [1 + x @ root @ root.T @ x for x in table]
    assert _doubt(csr_matrix(table), root @ root.T) == pytest.approx(np.array(expected))
