"""Where a forward pass runs, in which numbers, and how much memory it takes."""

from __future__ import annotations

import platform
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headstart.workbench import Precision

_BF16_UNITS = (
    "amx_bf16",
    "avx512_bf16",
)  # of a CPU: matrix products in bf16, twice to eight times fp32's pace
_BF16_CAPABILITY = (8, 0)  # of a CUDA device: Ampere, the first with matrix units for bf16
_CORES = torch.get_num_threads()  # torch's own choice, asked before anyone changes it


def use_cores(jobs_at_a_time: int) -> None:
    """Compute on this job's share of the cores that torch would take by itself, at least one."""
    torch.set_num_threads(max(1, _CORES // jobs_at_a_time))


def pick_device() -> torch.device:
    """The first CUDA device that this process may see, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def pick_dtype(device: torch.device, precision: Precision) -> torch.dtype:
    """The numbers to compute in: what `precision` says; under "auto", bf16 where the device is fast in it.

    Fast in bf16 are CUDA devices of compute capability 8.0 and above, and CPUs with AMX-BF16 or AVX512-BF16.
    All others compute in fp32: they would emulate bf16, slower and less exact.
    """
    if precision == "auto":
        return torch.bfloat16 if has_fast_bf16(device) else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies matrices in bf16 by units of its own."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _BF16_CAPABILITY
    units = cpu_units() if device.type == "cpu" else {}
    return any(units.get(unit) is True for unit in _BF16_UNITS)


def cpu_units() -> Mapping[str, object]:
    """What this CPU can do, by the names of instruction sets, as torch found them; and its `cpu_name`."""
    return torch.cpu.get_capabilities()


def device_name(device: torch.device) -> str:
    """The device in words, for a score's details: "NVIDIA H100 80GB HBM3", "CPU (AMD EPYC, 2 threads)"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    maker = cpu_units().get("cpu_name") or platform.machine()
    return f"CPU ({maker}, {torch.get_num_threads()} threads)"


def start_counting_memory(device: torch.device) -> None:
    """`peak_memory` counts from here on, where the system can be told so."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Bytes on the GPU, or of this process; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return None
