"""What a checkpoint is, read from details that anybody may have written."""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.checkpoints.describe import details_of
from headstart.checkpoints.facts import MOST_LAYERS, UNKNOWN, Facts, facts_in, facts_of
from tests.checkpoint_folders import CONFIG

PUBLISHED = {  # as the importer of the published table stores it
    "model_type": "roberta",
    "tokenizer": "a/b",
    "last_modified": "2022-08-04T10:36:41.000Z",
    "classification": "True",
    "layers": 12,
}
THEN = datetime(2022, 8, 4, 10, 36, 41, tzinfo=UTC).timestamp()


def test_the_facts_of_a_published_checkpoint() -> None:
    assert facts_of(PUBLISHED) == Facts(layers=12.0, classification=1.0, modified=THEN)


def test_the_facts_of_a_described_config() -> None:
    assert facts_of(details_of(CONFIG, {}, ()))[:2] == (2.0, 1.0)
    body = CONFIG | {"architectures": ["BertForMaskedLM"], "num_hidden_layers": 6}
    assert facts_of(details_of(body, {}, ()))[:2] == (6.0, 0.0)
    np.testing.assert_equal(facts_of(details_of({"model_type": "bert"}, {}, ())), UNKNOWN)


def test_the_architecture_tells_of_the_head_where_it_is_known() -> None:
    assert facts_of(PUBLISHED | {"architecture": "RobertaForMaskedLM"}).classification == 0.0
    assert facts_of(PUBLISHED | {"architecture": ["RobertaForMaskedLM"]}).classification == 1.0


@pytest.mark.parametrize(
    ("told", "layers"),
    [
        (6, 6.0),
        (0, 0.0),
        (12.0, 12.0),
        ("24", 24.0),
        ("12.0", 12.0),
        (MOST_LAYERS, MOST_LAYERS),
        *(
            (junk, math.nan)
            for junk in (True, None, "", "twelve", -1, 11.5, MOST_LAYERS + 1, 10**400, math.nan, math.inf)
        ),
        *((junk, math.nan) for junk in ("nan", "1e999", [12], {"layers": 12}, "1" * 5000, "\ud800")),
    ],
)
def test_layers(told: Any, layers: float) -> None:
    np.testing.assert_equal(facts_of({"layers": told}), Facts(layers=layers))


@pytest.mark.parametrize(
    ("told", "classification"),
    [
        (True, 1.0),
        (False, 0.0),
        ("True", 1.0),
        ("false", 0.0),
        *((junk, math.nan) for junk in (None, "", "perhaps", 2, math.nan, ["True"], {"True": True})),
    ],
)
def test_classification(told: Any, classification: float) -> None:
    np.testing.assert_equal(facts_of({"classification": told}), Facts(classification=classification))


@pytest.mark.parametrize(
    ("told", "modified"),
    [
        ("2022-08-04T10:36:41.000Z", THEN),
        ("2022-08-04T10:36:41+00:00", THEN),
        ("2022-08-04T12:36:41+02:00", THEN),
        ("2022-08-04 10:36:41", THEN),
        ("2022-08-04", datetime(2022, 8, 4, tzinfo=UTC).timestamp()),
        ("1970-01-01T00:00:00Z", math.nan),
        ("0001-01-01T00:00:00+14:00", math.nan),
        *((junk, math.nan) for junk in (None, "", "yesterday", "2022-13-40", 1.6e9, True, [], "9" * 5000)),
        ("2022-08-04\0", math.nan),
        ("\ud800022-08-04", math.nan),
    ],
)
def test_modified(told: Any, modified: float) -> None:
    np.testing.assert_equal(facts_of({"last_modified": told}), Facts(modified=modified))


def test_a_time_without_a_zone_is_utc_wherever_this_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        found = facts_of({"last_modified": "2022-08-04 10:36:41"})
    time.tzset()
    assert found.modified == THEN


def test_details_that_are_none_tell_nothing() -> None:
    for details in (None, {}, [], [PUBLISHED], "layers", 12, math.nan, json.dumps(PUBLISHED)):
        assert facts_of(details) is UNKNOWN


def test_stored_details_are_read_in_order_and_broken_ones_tell_nothing() -> None:
    whole = json.dumps(PUBLISHED)
    six = '{"layers": 6, "tags": ["\\u0000", "\\ud800"]}'
    np.testing.assert_array_equal(facts_in([six, whole]), [[6, math.nan, math.nan], [12, 1, THEN]])
    for broken in ("", "{", whole[:-1], "[" * 100_000, '{"layers": ' + "9" * 5000 + "}", "{},{}", "],["):
        found = facts_in([six, broken, whole])
        np.testing.assert_array_equal(found, [[6, math.nan, math.nan], UNKNOWN, [12, 1, THEN]])
    assert facts_in([]).shape == (0, 3)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["layers", "classification", "last_modified", "architecture", "x"])


@given(st.lists(JUNK | st.dictionaries(NAMES, JUNK), max_size=4))
def test_whatever_was_stored_a_fact_is_in_its_range_or_unknown(stored: list[Any]) -> None:
    found = facts_in([json.dumps(details) for details in stored])
    assert found.shape == (len(stored), 3)
    np.testing.assert_array_equal(found, np.array([facts_of(d) for d in stored]).reshape(-1, 3))
    for layers, classification, modified in found:
        assert math.isnan(layers) or (0 <= layers <= MOST_LAYERS and layers.is_integer())
        assert math.isnan(classification) or classification in (0.0, 1.0)
        assert math.isnan(modified) or 0 < modified < math.inf
