"""The mean of 8 checkpoints beside mergekit's linear merge: time, memory, and the numbers themselves.

    python -m venv MERGEKIT && MERGEKIT/bin/pip install mergekit     # its pins clash with ours
    python -m bench.regions.centroid [--mergekit MERGEKIT/bin/mergekit-yaml] [--sizes minilm] [--rounds 3]

Checkpoints are made up, MPNets of two sizes (mergekit 0.1.5 breaks off on BERT, in plan.py): a vanilla of
random weights, and members a small step away from it, fp32 safetensors. Both sides are whole processes, from
the first import to a folder with config, tokenizer and weights; ours writes a card and the digest of what it
wrote, flushes it to the disk, and with `digests` reads every member once more to check it, as a job does
whose worker has not read it yet. They take turns; on a busy machine look at the CPU seconds. Memory is the
largest resident set that the kernel saw. Without --mergekit only ours runs. Targets: equal to 1e-6, ratio of
seconds at most 1, of memory at most 0.5, and memory flat from 4 to 16 members.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

COUNTS = (4, 8, 16)
COMPARED = 8
MEASURED = ("seconds", "CPU seconds", "MiB")
STEP = 0.02  # of a member from the vanilla, as a share of its weights' size


def make_family(size: str, members: int, folder: Path) -> None:
    """The vanilla in folder/0, members in 1, 2, ..."""
    import torch  # noqa: PLC0415 - whoever measures does not hold it
    import transformers  # noqa: PLC0415

    from tests.worker.tiny_checkpoints import make_tokenizer  # noqa: PLC0415

    small = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}  # 22.7 M, else 109 M
    made: Any = transformers.MPNetModel(transformers.MPNetConfig(**small if size == "minilm" else {}))
    vanilla = {name: one.clone() for name, one in made.state_dict().items()}
    for number in range(members + 1):
        generator = torch.Generator().manual_seed(number)
        for name, parameter in made.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * STEP * 0.02
            parameter.data.copy_(vanilla[name] + (noise if number else 0))
        made.save_pretrained(folder / str(number), max_shard_size="10GB")
        make_tokenizer("mpnet").save_pretrained(folder / str(number))


def ours(folder: Path, members: int, out: Path, *, digests: bool) -> list[str]:
    """The command that mixes the members as a job does."""
    told = [str(folder), str(members), str(out), *(["digests"] if digests else [])]
    return [sys.executable, "-m", "bench.regions.centroid", "--mix", *told]


def mix(folder: Path, members: int, out: Path, *, digests: bool) -> None:
    """What the command runs."""
    from headstart.checkpoints.files import find_folder  # noqa: PLC0415
    from headstart.entities import Checkpoint  # noqa: PLC0415
    from worker.checkpoints import CheckpointFiles, read_folder  # noqa: PLC0415
    from worker.mixtures import Mixture, keep_mixture  # noqa: PLC0415

    def found(number: int) -> CheckpointFiles:
        if digests:
            return read_folder(folder / str(number), roots=[folder], pickles=False)
        weights = find_folder(folder / str(number), [folder], pickles=False).weights
        return CheckpointFiles(folder / str(number), str(number), str(number), weights)

    def told(number: int) -> Checkpoint:
        return Checkpoint(
            id=number, family="f", name=f"m{number}", revision="", is_vanilla=number == 0, parameters=None,
            license=None,
        )  # fmt: skip

    numbers = range(1, members + 1)
    mixture = Mixture(
        members=[told(number) for number in numbers],
        files=[found(number) for number in numbers],
        weights=[1 / members] * members,
        vanilla=told(0),
        base=found(0),
    )
    keep_mixture(mixture, "centroid", {}, lambda *_: None, root=out)


def theirs(program: str, folder: Path, members: int, out: Path) -> list[str]:
    """The command that merges the members with mergekit; its config lies beside the output."""
    config: dict[str, Any] = {
        "merge_method": "linear",
        "dtype": "float32",
        "models": [
            {"model": str(folder / str(number)), "parameters": {"weight": 1.0}}
            for number in range(1, members + 1)
        ],
    }
    path = out.with_suffix(".yaml")
    path.write_text(json.dumps(config))  # JSON is YAML
    return [program, str(path), str(out)]


def measured(command: list[str]) -> tuple[float, float, float]:
    """Seconds, CPU seconds and MiB at most of a process that has to succeed."""
    env = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with tempfile.TemporaryFile() as log:
        started = time.monotonic()
        child = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.monotonic() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{log.read().decode()[-3000:]}")
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def difference(one: Path, other: Path) -> float:
    """The largest difference of two folders' weights; their tensors have to be the same."""
    from safetensors.torch import load_file  # noqa: PLC0415

    def weights(folder: Path) -> dict[str, Any]:
        return {k: v for path in folder.glob("**/*.safetensors") for k, v in load_file(path).items()}

    first, second = weights(one), weights(other)
    if first.keys() != second.keys():
        raise SystemExit(f"Tensors differ: {sorted(first.keys() ^ second.keys())[:5]}")
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def ourselves(*told: str) -> str:
    """What another process of this file prints: what torch takes in this one would count as a child's."""
    return subprocess.run(
        [sys.executable, "-m", "bench.regions.centroid", *told], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def compare(size: str, program: str | None, rounds: int, folder: Path) -> dict[str, Any]:
    """All runs of one size, taking turns."""
    members = max(COUNTS)
    ourselves("--make", size, str(members), str(folder))
    runs: dict[str, list[tuple[float, float, float]]] = {}
    gaps = []
    for _ in range(rounds):
        kinds = {f"ours, {count}": ours(folder, count, folder / "out", digests=False) for count in COUNTS}
        kinds["ours, 8, digests"] = ours(folder, COMPARED, folder / "out", digests=True)
        if program is not None:
            for count in COUNTS:
                kinds[f"mergekit, {count}"] = theirs(program, folder, count, folder / f"merged-{count}")
        for kind, command in kinds.items():
            runs.setdefault(kind, []).append(measured(command))
            if kind == f"mergekit, {COMPARED}":
                measured(ours(folder, COMPARED, folder / "out", digests=False))
                told = ourselves("--differ", str(folder / "out"), str(folder / f"merged-{COMPARED}"))
                gaps.append(float(told))
            shutil.rmtree(folder / "out", ignore_errors=True)
    result: dict[str, Any] = {
        kind: {what: median(column) for what, column in zip(MEASURED, zip(*found, strict=True), strict=True)}
        for kind, found in runs.items()
    }
    if program is not None:
        pairs = list(zip(runs[f"ours, {COMPARED}"], runs[f"mergekit, {COMPARED}"], strict=True))
        result["largest difference"] = max(gaps)
        result["ratios"] = {
            what: [round(one[place] / other[place], 3) for one, other in pairs]
            for place, what in enumerate(MEASURED)
        }
    return result


def main() -> None:
    """Run, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mergekit", help="the program mergekit-yaml of an environment of its own")
    parser.add_argument("--sizes", nargs="+", default=["minilm", "mpnet"], choices=["minilm", "mpnet"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where 17 checkpoints of each size have room")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--make", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--mix", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--differ", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.differ:
        print(difference(*args.differ))
        return
    if args.make:
        make_family(args.make[0], int(args.make[1]), Path(args.make[2]))
        return
    if args.mix:
        mix(Path(args.mix[0]), int(args.mix[1]), Path(args.mix[2]), digests="digests" in args.mix[3:])
        return
    found = {}
    for size in args.sizes:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            found[size] = compare(size, args.mergekit, args.rounds, Path(folder))
    if args.json:
        print(json.dumps(found))
        return
    for size, told in found.items():
        table = Table("run, members", *MEASURED, title=size)
        for kind, one in told.items():
            if kind.startswith(("ours", "mergekit")):
                table.add_row(kind, *(f"{one[what]:.2f}" for what in MEASURED))
        Console().print(table)
        for name in ("largest difference", "ratios"):
            if name in told:
                print(f"{name}: {told[name]}")


if __name__ == "__main__":
    main()
