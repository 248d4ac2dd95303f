"""Sketches of task vectors: what one costs beside reading its file, and how far its cosines are off.

    python -m bench.regions.sketch [--runs 9] [--threads 1] [--error | --real VANILLA CHECKPOINT...]

Cost: a made-up checkpoint of BERT-base's size (110M parameters), in fp32 and in bf16, and a vanilla in
fp32, all in the page cache. In turns, in one run: `worker.task_vectors.task_vector`, which reads both
files; reading the checkpoint's file into memory and casting it to fp32; and the same a piece at a time into
memory that is used again, which is the least that a pass over one file can cost. Ratios are medians over
the turns, of wall seconds and of the CPU's; on a machine with other work the latter are what to read. Peak
memory is that of a process of its own, over what it held before; beside it that of a model of twice the
size (Linux).

`--error` draws pairs of vectors with known cosines and sketches them under many seeds; `--real` does the same
with the task vectors of folders.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models

from headstart.checkpoints.safetensors import read_header
from headstart.regions.sketch import DIMS, sketch_of
from worker.checkpoints import read_folder
from worker.pieces import Body
from worker.task_vectors import task_vector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.checkpoints import CheckpointFiles

SHAPES = {"embeddings": (6_000, 384), **{f"layer.{n}": (768, 768) for n in range(4)}, "bias": (768,)}
COSINES = (0.0, 0.02, 0.3, 0.9)
SEEDS = 200
TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def quiet(*_: object) -> None:
    """Tell nobody."""


def write_model(
    folder: Path, *, layers: int = 12, moved: float = 0.0, dtype: torch.dtype = torch.float32
) -> Path:
    """A random BERT with a tokenizer: equal arguments but `moved` and `dtype` give one vanilla's."""
    config = transformers.BertConfig(num_hidden_layers=layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.BertModel(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02 * moved)
    model.to(dtype).save_pretrained(folder)
    words = {f"w{number}": number for number in range(config.vocab_size)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    return folder


def files_of(folder: Path) -> CheckpointFiles:
    return read_folder(folder, roots=[folder], pickles=False)


def sketch(files: CheckpointFiles, vanilla: CheckpointFiles) -> None:
    task_vector(files, vanilla, report=quiet)


def read_and_cast(files: CheckpointFiles, _: CheckpointFiles) -> None:
    """All of the file in memory, in fp32."""
    for path in files.weights:
        with path.open("rb") as file:
            header = read_header(file, path.stat().st_size, path.name)
        data = torch.from_numpy(np.fromfile(path, np.uint8))[header.data_at :]
        held = {
            name: data[tensor.begin : tensor.end].view(TORCH[tensor.dtype]).float()
            for name, tensor in header.tensors.items()
        }
        del held


def stream_and_cast(files: CheckpointFiles, _: CheckpointFiles) -> None:
    """A piece at a time, into the same memory."""
    wide = torch.empty(DIMS)
    buffer = memoryview(bytearray(DIMS * 4))
    for path in files.weights:
        with path.open("rb") as file:
            header = read_header(file, path.stat().st_size, path.name)
            for tensor in header.tensors.values():
                dtype = TORCH[tensor.dtype]
                file.seek(header.data_at + tensor.begin)
                for start in range(tensor.begin, tensor.end, DIMS * dtype.itemsize):
                    part = buffer[: min(tensor.end - start, DIMS * dtype.itemsize)]
                    file.readinto(part)
                    if dtype != torch.float32:
                        piece = torch.frombuffer(part, dtype=dtype)
                        wide[: len(piece)].copy_(piece)


WAYS: dict[str, Callable[[CheckpointFiles, CheckpointFiles], None]] = {
    "sketch": sketch,
    "read and cast": read_and_cast,
    "stream and cast": stream_and_cast,
}


def cost(files: CheckpointFiles, vanilla: CheckpointFiles, runs: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of each way, in turns; the first turn is not counted."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for turn in range(runs + 1):
        for name, way in WAYS.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way(files, vanilla)
            if turn:
                found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return found


def peak_growth(folders: tuple[Path, Path], pipe: Any) -> None:
    """MiB by which the peak of this process lies above what it held before; a small sketch was made first."""
    small = files_of(folders[1].parent / "small")
    sketch(small, small)
    files, vanilla = map(files_of, folders)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
    before = resident("VmRSS")
    sketch(files, vanilla)
    pipe.send((resident("VmHWM") - before) / 1024)


def resident(which: str) -> int:
    """KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(which)).split()[1])


def in_child(folders: tuple[Path, Path]) -> float:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(target=peak_growth, args=(folders, theirs))
    child.start()
    child.join()
    return float(ours.recv())


def show_cost(runs: int, console: Console) -> None:
    with tempfile.TemporaryDirectory() as at:
        root = Path(at)
        vanilla = write_model(root / "vanilla")
        members = {
            "fp32": write_model(root / "fp32", moved=0.02),
            "bf16": write_model(root / "bf16", moved=0.02, dtype=torch.bfloat16),
        }
        table = Table("110M parameters", "way", "wall s", "CPU s", "sketch / way, wall", "sketch / way, CPU")
        for dtype, folder in members.items():
            found = cost(files_of(folder), files_of(vanilla), runs)
            for name, seconds in found.items():
                pairs = list(zip(found["sketch"], seconds, strict=True))
                ratios = [statistics.median(ours[k] / theirs[k] for ours, theirs in pairs) for k in (0, 1)]
                medians = [statistics.median(one[k] for one in seconds) for k in (0, 1)]
                table.add_row(dtype, name, *(f"{x:.3f}" for x in medians), *(f"{x:.2f}" for x in ratios))
        console.print(table)
        write_model(root / "small", layers=1)
        twice = (
            write_model(root / "twice", layers=27),
            write_model(root / "twice-moved", layers=27, moved=0.02),
        )
        one, two = in_child((members["fp32"], vanilla)), in_child((twice[1], twice[0]))
        console.print(f"peak memory of a sketch: {one:.1f} MiB at 110M parameters, {two:.1f} MiB at 216M")


def planted(kind: str, cosine: float, rng: np.random.Generator) -> Iterator[dict[str, np.ndarray]]:
    """Two vectors of about this cosine."""

    def drawn() -> dict[str, np.ndarray]:
        if kind == "heavy tails":  # Student's t with 2.5 degrees of freedom
            return {name: rng.standard_t(2.5, shape).astype(np.float32) for name, shape in SHAPES.items()}
        made = {name: rng.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}
        if kind == "few large tensors":  # a bias holds half of the square
            made["bias"] *= 60.0
        if kind == "rank one":
            made = {name: (one[:, :1] * one[:1, :] if one.ndim == 2 else one) for name, one in made.items()}
        return made

    one, other = drawn(), drawn()
    if kind == "few rows moved":  # of the embeddings one in twenty, in each vector others, and nothing else
        for vector in (one, other):
            vector["embeddings"][rng.random(len(vector["embeddings"])) > 0.05] = 0.0
    mixed = {name: cosine * one[name] + np.sqrt(1 - cosine**2) * other[name] for name in SHAPES}
    yield from (one, {name: values.astype(np.float32) for name, values in mixed.items()})


def cosine_of(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


def flat(tensors: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([tensors[name].reshape(-1) for name in sorted(tensors)])


def row_of_errors(errors: np.ndarray) -> list[str]:
    return [f"{np.quantile(np.abs(errors), 0.95):.4f}", f"{errors.std():.4f}", f"{errors.mean():+.4f}"]


def show_error(console: Console) -> None:
    table = Table("vectors", "cosine", "95 % within", "standard error", "mean error")
    rng = np.random.default_rng(0)
    for kind in ("normal", "heavy tails", "few rows moved", "few large tensors", "rank one"):
        for cosine in COSINES:
            one, other = planted(kind, cosine, rng)
            exact = cosine_of(flat(one), flat(other))
            errors = [
                cosine_of(sketch_of(one, seed=seed), sketch_of(other, seed=seed)) - exact
                for seed in range(SEEDS)
            ]
            table.add_row(kind, f"{exact:.3f}", *row_of_errors(np.array(errors)))
    console.print(table)


def show_real(folders: list[Path], console: Console, seeds: int = 12) -> None:
    bodies = [Body(files_of(folder)) for folder in folders]

    def values(body: Body, name: str) -> np.ndarray:
        return body.piece(name, 0, body.elements(name), bytearray(8 * body.elements(name))).float().numpy()

    names = sorted(set.intersection(*(set(body.shapes) for body in bodies)))
    base = {name: values(bodies[0], name) for name in names}
    deltas = [{name: values(body, name) - base[name] for name in names} for body in bodies[1:]]
    sketches = [[sketch_of(delta, seed=seed) for delta in deltas] for seed in range(seeds)]
    whole = [flat(delta) for delta in deltas]
    pairs = [(a, b) for a in range(len(deltas)) for b in range(a)]
    exact = {pair: cosine_of(whole[pair[0]], whole[pair[1]]) for pair in pairs}
    errors = [cosine_of(found[a], found[b]) - exact[a, b] for found in sketches for a, b in pairs]
    table = Table("pairs x seeds", "cosines", "95 % within", "standard error", "mean error")
    span = f"{min(exact.values()):.3f} to {max(exact.values()):.3f}"
    table.add_row(f"{len(pairs)} x {seeds}", span, *row_of_errors(np.array(errors)))
    console.print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="of torch, for casting")
    parser.add_argument("--error", action="store_true")
    parser.add_argument("--real", nargs="+", type=Path, default=[], help="folders, the vanilla first")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console(width=140)
    if options.real:
        show_real(options.real, console)
    elif options.error:
        show_error(console)
    else:
        show_cost(options.runs, console)


if __name__ == "__main__":
    main()
