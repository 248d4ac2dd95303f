"""What is known of a checkpoint before anything was finetuned from it, as columns."""

import dataclasses

import numpy as np
import pytest

from headstart.recommend.covariates import (
    DENSE,
    FEWEST,
    MOST_TOKENS,
    OLDEST,
    PROBE_COLUMN,
    TOKEN,
    YEAR,
    covariates,
    tokens_of,
)
from headstart.recommend.evidence import FamilyEvidence
from tests.recommend.evidence_of import evidence_of

NAN = np.nan
INTERCEPT_AT, MISSING_AT, HEAD_AT, AGE_AT, SHALLOW_AT, DOMAIN_AT = 0, 2, 3, 4, 5, 6


def named(*names: str) -> FamilyEvidence:
    return dataclasses.replace(evidence_of(np.zeros((len(names) - 1, 1))), checkpoint_names=names)


def columns_of(evidence: FamilyEvidence, probe: np.ndarray | None = None) -> np.ndarray:
    """Of a family all of whose checkpoints are measured."""
    count = len(evidence.checkpoint_names)
    probe = np.full(count, NAN) if probe is None else probe
    found = covariates([evidence], [probe], [np.arange(count)])
    assert found.matrices[0].shape == (count, len(found.group))
    return np.asarray(found.matrices[0].toarray())


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("a/bert-base-mnli-3", {"mnli"}),
        ("bert-base-uncased-finetuned-squad", {"squad"}),
        ("squad/roberta_base", set()),
        ("x/y/Deep-SciBERT2go", {"deep", "scibert", "go"}),
        ("mnli-MNLI.mnli", {"mnli"}),
        ("", set()),
        ("a/", set()),
        ("日本/é-ü-x", set()),
    ],
)
def test_the_tokens_of_a_name(name: str, tokens: set[str]) -> None:
    assert tokens_of(name) == tokens


def test_a_token_is_a_column_where_three_measured_checkpoints_share_it() -> None:
    names = ("base", "a/x-mnli", "b/mnli-squad", "c/mnli", "d/squad", "e/squad-mnli-mnli")
    evidence = named(*names)
    nothing = np.full(6, NAN)
    assert FEWEST == 3
    rows = np.array([1, 2, 3, 4])  # squad twice among them
    found = covariates([evidence], [nothing], [rows])
    assert (found.group == TOKEN).sum() == 1
    np.testing.assert_array_equal(found.matrices[0].toarray()[:, -1], [0, 1, 1, 1, 0, 1])
    every = covariates([evidence], [nothing], [np.arange(6)])
    assert (every.group == TOKEN).sum() == 2


@pytest.mark.parametrize(
    "odd",
    ["x\ny-mnli", "\r\nmnli", "İmnli", "mnliK", "mnli\0squad", "MNLI_SQUAD", "\ud800mnli", "/", "a/b/mnli\n"],
)
def test_columns_say_what_the_tokens_of_a_name_say(odd: str) -> None:
    evidence = named("base", "mnli", "mnli-squad", "squad", "x/mnli-squad", odd)
    table = columns_of(evidence)[:, len(DENSE) :]
    assert table.shape[1] >= 2
    mnli, squad = table[2] > 0, table[3] > 0
    at = {"squad": int(np.flatnonzero(squad)[0])}
    at["mnli"] = int(np.flatnonzero(mnli & ~squad)[0])
    for row, name in enumerate(evidence.checkpoint_names):
        for token, column in at.items():
            assert table[row, column] == float(token in tokens_of(name)), (name, token)


def test_the_commonest_tokens_are_kept() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [x + y for x in letters for y in letters if x != y][: MOST_TOKENS + 50]
    names = [f"m-{word}" for word in words for _ in range(FEWEST)]
    found = covariates([named("base", *names)], [np.full(len(names) + 1, NAN)], [np.arange(len(names) + 1)])
    assert (found.group == TOKEN).sum() == MOST_TOKENS


def test_families_share_one_vocabulary() -> None:
    one, two = named("base", "a-mnli", "b-mnli"), named("other", "x/mnli", "y/none")
    probes = [np.full(3, NAN)] * 2
    found = covariates([one, two], probes, [np.arange(3)] * 2)
    assert [m.shape for m in found.matrices] == [(3, len(DENSE) + 1)] * 2
    np.testing.assert_array_equal(found.matrices[1].toarray()[:, -1], [0, 1, 0])
    assert (covariates([one], probes[:1], [np.arange(3)]).group != TOKEN).all()


def test_the_probe_is_a_value_or_missing() -> None:
    found = columns_of(named("base", "a", "b"), np.array([0.0, 2.5, NAN]))
    np.testing.assert_array_equal(found[:, INTERCEPT_AT], 1)
    np.testing.assert_array_equal(found[:, PROBE_COLUMN], [0, 2.5, 0])
    np.testing.assert_allclose(found[:, MISSING_AT], [-1 / 3, -1 / 3, 2 / 3])


@pytest.mark.parametrize("probed", [0.5, NAN])
def test_to_be_probed_is_no_merit_where_all_measured_are_alike_in_it(probed: float) -> None:
    evidence, probe = named("base", "a", "b"), np.array([probed, probed, NAN if probed == 0.5 else 0.5])
    found = covariates([evidence], [probe], [np.array([0, 1])]).matrices[0].toarray()
    np.testing.assert_array_equal(found[:2, MISSING_AT], 0)


def test_metadata_is_told_from_the_middle_of_the_measured() -> None:
    evidence = dataclasses.replace(
        named("base", "a/distilled", "b/x-Clinical", "c/plain", "d/x"),
        classification=np.array([NAN, 1.0, 0.0, 1.0, NAN]),
        layers=np.array([12.0, 6.0, 12.0, NAN, 24.0]),
        modified=1e9 + YEAR * np.array([0.0, 1.0, -9.0, NAN, 0.0]),
    )
    found = columns_of(evidence)
    np.testing.assert_array_equal(found[:, HEAD_AT], [0, 0.5, -0.5, 0.5, 0])
    np.testing.assert_allclose(found[:, AGE_AT], [0, 1, -OLDEST, 0, 0], atol=1e-6)
    np.testing.assert_array_equal(found[:, SHALLOW_AT], [0, 1, 0, 0, 0])
    np.testing.assert_array_equal(found[:, DOMAIN_AT], [0, 1, 1, 0, 0])


def test_nothing_known_is_zero_and_no_checkpoint_is_no_row() -> None:
    found = columns_of(named("base", "a"))
    np.testing.assert_array_equal(found[:, MISSING_AT + 1 : DOMAIN_AT + 1], 0)
    empty = dataclasses.replace(
        named("base"),
        checkpoint_names=(),
        layers=np.zeros(0),
        classification=np.zeros(0),
        modified=np.zeros(0),
    )
    assert columns_of(empty).shape == (0, len(DENSE))
