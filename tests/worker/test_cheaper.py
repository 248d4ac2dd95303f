"""What training on a CPU computes otherwise than torch: the same means, the same formulas, the same casts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from worker import cheaper
from worker.cheaper import Cheaper, attention, dropout

CPU = torch.device("cpu")


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_a_dropout_keeps_its_share_and_the_mean(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1001)
    found = dropout(x, p)
    share = float((found == 0).float().mean())
    assert share == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5)
    assert float(found.mean()) == pytest.approx(1.0, abs=5 * (p / (1 - p) / x.numel()) ** 0.5)
    assert torch.unique(found)[1:].tolist() == pytest.approx([1 / (1 - p)], rel=1e-3)


def test_neighbours_are_dropped_independently_of_each_other() -> None:
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(1 << 20), 0.3) == 0).double()
    for lag in (1, 2, 3, 4, 8):  # four share a random number
        product = float((dropped[lag:] * dropped[:-lag]).mean())
        assert product == pytest.approx(0.09, abs=5 * (0.09 / len(dropped)) ** 0.5)


def test_the_gradient_goes_where_the_value_stayed() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 13, requires_grad=True)
    found = dropout(x, 0.4)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(gradient * x, found)


def test_dropout_is_of_the_seed_and_only_in_training() -> None:
    x, layer = torch.randn(50, 50), nn.Dropout(0.5)
    with Cheaper(CPU, torch.float32):
        torch.manual_seed(3)
        one = layer(x)
        torch.manual_seed(3)
        assert torch.equal(layer(x), one)
        assert not torch.equal(layer(x), one)
        assert layer.eval()(x) is x
        assert torch.equal(functional.dropout(x, 1.0), torch.zeros_like(x))
        assert torch.equal(functional.dropout(x, 0.0), x)


def test_no_values_at_all_are_no_error() -> None:
    assert dropout(torch.ones(0, 3), 0.1).shape == (0, 3)


@pytest.mark.parametrize("kind", ["none", "seen", "added", "causal"])
def test_the_plain_formula_is_torchs_attention(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 2, 5, 8, requires_grad=True) for _ in range(3))
    seen = torch.ones(3, 1, 5, 5, dtype=torch.bool)
    seen[..., 4] = False
    asked = {
        "none": {},
        "seen": {"attn_mask": seen},
        "added": {"attn_mask": torch.randn(3, 2, 5, 5), "scale": 0.7},
        "causal": {"is_causal": True},
    }[kind]
    called = []

    def whole(*of: torch.Tensor | None, p: float, scale: float | None) -> torch.Tensor:
        called.append(p)
        return attention(*of, p=0.0, scale=scale)

    monkeypatch.setattr(cheaper, "attention", whole)
    wanted = functional.scaled_dot_product_attention(query, key, value, **asked)
    with Cheaper(CPU, torch.float32):
        found = functional.scaled_dot_product_attention(query, key, value, dropout_p=0.1, **asked)
        unmoved = functional.scaled_dot_product_attention(query, key, value, **asked)
    assert called == [0.1]
    assert torch.equal(unmoved, wanted)
    torch.testing.assert_close(found, wanted)
    towards = torch.randn_like(wanted)
    for mine, torchs in zip(
        torch.autograd.grad(found, (query, key, value), towards),
        torch.autograd.grad(wanted, (query, key, value), towards),
        strict=True,
    ):
        torch.testing.assert_close(mine, torchs)


def test_a_query_that_sees_no_key_is_finite() -> None:
    query = torch.randn(1, 1, 2, 4)
    seen = torch.tensor([[True, False], [False, False]])
    assert torch.isfinite(attention(query, query, query, seen, p=0.5, scale=None)).all()


def test_short_texts_in_bf16_are_trained_by_the_plain_formula_and_only_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called = []
    monkeypatch.setattr(cheaper, "attention", lambda *of, **_: called.append(1) or of[2])
    short, long = (torch.randn(1, 1, t, 4).bfloat16() for t in (cheaper.SHORT, cheaper.SHORT + 1))
    with Cheaper(CPU, torch.bfloat16):
        functional.scaled_dot_product_attention(short, short, short)
        assert called == [1]
        functional.scaled_dot_product_attention(long, long, long)
        with torch.inference_mode():
            functional.scaled_dot_product_attention(short, short, short)
    assert called == [1]


def test_frozen_weights_are_cast_once_and_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    frozen, trained = nn.Linear(8, 8), nn.Linear(8, 8)
    frozen.weight.requires_grad_(False)  # as bitfit has it: the bias is trained
    x = torch.randn(4, 8)
    mode = Cheaper(CPU, torch.bfloat16)

    def gradients() -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            loss = trained(frozen(x)).float().square().sum()
        return [loss, *torch.autograd.grad(loss, [frozen.bias, trained.weight])]

    wanted = gradients()
    with mode, torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        frozen(x)  # an evaluation comes first, where a training goes on
    (kept,) = mode._frozen.values()
    for _ in range(2):
        with mode:
            found = gradients()
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert [id(one) for one in mode._frozen.values()] == [id(kept)]
    assert frozen.weight.dtype == torch.float32


def test_on_another_device_torchs_own_ways_are_left_alone() -> None:
    x, layer = torch.randn(50, 50), nn.Dropout(0.5)
    torch.manual_seed(0)
    wanted = layer(x)
    torch.manual_seed(0)
    with Cheaper(torch.device("cuda"), torch.bfloat16):
        assert torch.equal(layer(x), wanted)
