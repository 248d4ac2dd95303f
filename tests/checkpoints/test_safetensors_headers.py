from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.checkpoints import safetensors
from headstart.checkpoints.safetensors import Header, Tensor, read_header
from headstart.errors import InvalidInput
from tests.checkpoint_folders import TENSORS, entries, packed, weights

if TYPE_CHECKING:
    from pathlib import Path


def read(data: bytes) -> Header:
    return read_header(io.BytesIO(data), len(data), "model.safetensors")


def said(data: bytes) -> str:
    """Why the bytes are refused, or nothing; any other error is none that may come."""
    try:
        read(data)
    except InvalidInput as error:
        return error.message
    return ""


def refused(data: bytes) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(data)
    assert caught.value.message.startswith("model.safetensors ")
    assert "Copy the file again" in caught.value.message
    return caught.value.message


def test_a_header_says_which_tensor_lies_where() -> None:
    header = read(weights({"a": ("F32", [2, 3]), "b": ("I64", []), "c": ("BF16", [0, 7])}))
    assert header.tensors == {
        "a": Tensor("F32", (2, 3), 0, 24),
        "b": Tensor("I64", (), 24, 32),
        "c": Tensor("BF16", (0, 7), 32, 32),
    }
    assert [one.elements for one in header.tensors.values()] == [6, 1, 0]


def test_data_begin_after_the_header() -> None:
    data = weights({"a": ("I8", [3])})[:-3] + b"abc"
    header = read(data)
    found = header.tensors["a"]
    assert data[header.data_at + found.begin : header.data_at + found.end] == b"abc"


def test_tensors_come_in_the_order_of_their_bytes() -> None:
    told = entries(TENSORS)
    header = read(packed(dict(reversed(told.items())), max(one["data_offsets"][1] for one in told.values())))
    assert list(header.tensors) == list(TENSORS)


def test_a_file_without_tensors_is_one() -> None:
    assert read(packed({}, 0)).tensors == {}


A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "0 bytes"),
        (b"\x01\x00", "2 bytes"),
        (weights()[:-1], "should hold"),
        (weights() + b"\0", "should hold"),
        (weights()[:40], "its header alone"),
        ((1 << 63).to_bytes(8, "little") + b"{}", "its header alone"),
        (packed(b"{", 0), "no JSON"),
        (packed(b"[]", 0), "no JSON object"),
        (packed(b"[" * 200_000, 0), "no JSON"),
        (packed(b'{"a": NaN}', 0), "no JSON"),
        (packed(b"\xff\xfe{}", 0), "no JSON"),
        (packed(b'{"a": {}, "a": {}}', 0), "no JSON"),
        (packed(b'{"a": ' + b"9" * 5000 + b"}", 0), "no JSON"),
        (packed({"a": 1}, 0), "the type '1'"),
        (packed({"a": A | {"dtype": "F33"}}, 8), "the type 'F33'"),
        (packed({"a": A | {"dtype": ["F32"]}}, 8), "which is none"),
        (packed({"a": A | {"shape": [-2]}}, 8), "a shape that is none"),
        (packed({"a": A | {"shape": [2.0]}}, 8), "a shape that is none"),
        (packed({"a": A | {"shape": [True, 2]}}, 8), "a shape that is none"),
        (packed({"a": A | {"shape": "2"}}, 8), "a shape that is none"),
        (packed({"a": A | {"shape": [1] * 17}}, 8), "a shape that is none"),
        (packed({"a": A | {"data_offsets": [0]}}, 8), "offsets that are none"),
        (packed({"a": A | {"data_offsets": [8, 0]}}, 8), "is not -8 bytes"),
        (packed({"a": A | {"shape": [10**15, 10**15]}}, 8), "is not 8 bytes"),
        (packed({"a": A | {"data_offsets": [0, 12]}}, 12), "is not 12 bytes"),
        (packed({"a": A, "b": A}, 8), "'b' overlaps"),
        (packed({"a": A, "b": A | {"data_offsets": [12, 20]}}, 20), "'b' leaves a hole"),
        (packed({"a": A | {"data_offsets": [4, 12]}}, 12), "'a' leaves a hole"),
    ],
)
def test_a_header_that_lies(data: bytes, what: str) -> None:
    assert what in refused(data)


def test_a_header_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors, "MOST_HEADER_BYTES", 100)
    assert "over the 100" in refused(packed(b" " * 101, 0))


def test_tensors_are_counted_before_they_are_looked_at() -> None:
    few = dict.fromkeys(map(str, range(safetensors.MOST_TENSORS + 1)), 0)
    assert "holds 100001 tensors, over the 100000" in refused(packed(few, 0))
    few.pop("0")
    assert "the type '0'" in refused(packed(few, 0))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for text in (data, len(data).to_bytes(8, "little") + data):
        assert said(text).isprintable()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(("a", "dtype", "shape", "data_offsets", "__metadata__")), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_read_or_refused(told: Any) -> None:
    assert said(packed(told, 8)).isprintable()


def test_a_real_file(real_checkpoint: Path) -> None:
    path = real_checkpoint / "model.safetensors"
    with path.open("rb") as file:
        header = read_header(file, path.stat().st_size, path.name)
    assert header.tensors["embeddings.word_embeddings.weight"].shape == (30522, 384)
