"""In which numbers a pass computes: the rule, on devices that are at hand and on told ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from worker import device as devices

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU = torch.device("cpu")


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("units", "dtype"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"avx512_f": True, "avx512_bf16": False, "avx2": True}, torch.float32),
        ({"architecture": "aarch64"}, torch.float32),
    ],
)
def test_auto_is_bf16_where_the_cpu_has_units_for_it(
    monkeypatch: pytest.MonkeyPatch, units: dict[str, object], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(devices, "cpu_units", lambda: units)
    assert devices.pick_dtype(CPU, "auto") is dtype


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_auto_is_bf16_where_the_gpu_has_units_for_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert devices.pick_dtype(torch.device("cuda:0"), "auto") is dtype


@pytest.mark.parametrize("units", [{}, {"amx_bf16": True}])
def test_what_is_asked_for_overrides_the_rule(
    monkeypatch: pytest.MonkeyPatch, units: dict[str, object]
) -> None:
    monkeypatch.setattr(devices, "cpu_units", lambda: units)
    assert devices.pick_dtype(CPU, "bf16") is torch.bfloat16
    assert devices.pick_dtype(CPU, "fp32") is torch.float32


def test_jobs_share_the_cores(threads: int) -> None:
    devices.use_cores(1)
    all_of_them = torch.get_num_threads()
    devices.use_cores(10 * all_of_them)
    assert torch.get_num_threads() == 1
    devices.use_cores(1)
    assert torch.get_num_threads() == all_of_them


def test_the_device_has_a_name(threads: int) -> None:
    torch.set_num_threads(1)
    assert devices.device_name(CPU).startswith("CPU (")
    assert devices.device_name(CPU).endswith(", 1 threads)")
    assert devices.pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
