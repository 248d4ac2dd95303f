from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from headstart.failures import NonFinite, NotApplicable, OutOfMemory, Refused
from headstart.workbench import Cancelled, FeatureSpec
from tests.worker.small_rows import ignore, make_rows, make_texts
from tests.worker.tiny_checkpoints import ARCHITECTURES, DECODERS, HIDDEN, LAYERS, POSITIONS, make_tiny
from worker import features, forward
from worker.bodies import Body, load_body
from worker.cache import Cache
from worker.checkpoints import CheckpointFiles, read_folder
from worker.device import pick_device
from worker.features import FrozenFeatures, open_features

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
ALIKE = {"rtol": 1e-4, "atol": 1e-5}  # batched and single in fp32: activations are of order one
ALIKE_BF16 = {"rtol": 0.05, "atol": 0.1}  # eight bits of fraction, three layers


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other after every tiny product cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "BUDGETS", {"cpu": 100, "cuda": 100})
    monkeypatch.setattr(features, "SHELF", features.Shelf())


def opened(
    tmp_path: Path, files: CheckpointFiles, rows, *, report=ignore, cache: str = "cache", **spec
) -> FrozenFeatures:
    return open_features(
        files=files,
        rows=rows,
        spec=FeatureSpec(**({"precision": "fp32"} | spec)),
        cache=Cache(tmp_path / cache, 1 << 30),
        report=report,
    )


def tiny(tmp_path: Path, architecture: str = "bert", **changes) -> CheckpointFiles:
    folder = make_tiny(architecture, tmp_path / architecture, **changes)
    return read_folder(folder, roots=[tmp_path], pickles=False)


def alone(body: Body, *text: str) -> list[np.ndarray]:
    """The hidden states of one text in transformers' own way: embeddings first, the last one normed."""
    given = body.tokenizer(*text, return_tensors="pt")
    if not body.takes_types:
        given.pop("token_type_ids", None)
    with torch.inference_mode():
        output = body.backbone(**given.to(pick_device()), output_hidden_states=True)
    return [state[0].float().cpu().numpy() for state in (*output.hidden_states[:-1], output[0])]


def loaded(files: CheckpointFiles, dtype: torch.dtype = torch.float32) -> Body:
    return load_body(files, pick_device(), dtype, with_head=False)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pairs", [False, True])
def test_batched_is_single(tmp_path: Path, architecture: str, pairs: bool) -> None:
    files = tiny(tmp_path, architecture)
    texts, others = make_texts(17, longest=8), make_texts(17, longest=8, seed=1)
    rows = make_rows(tmp_path / "rows", {"train": texts}, {"train": others} if pairs else None)
    found = opened(tmp_path, files, rows)
    x = found.rows("train").array("last")
    assert x.shape == (17, HIDDEN)
    assert found.facts["padded_tokens"] > found.facts["tokens"]  # so rows did share batches
    body = loaded(files)
    for row in range(17):
        hidden = alone(body, texts[row], *([others[row]] if pairs else []))[-1]
        expected = hidden[-1] if architecture in DECODERS else hidden.mean(0)
        np.testing.assert_allclose(x[row], expected, **ALIKE)


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_batched_is_about_single_in_bf16(tmp_path: Path, architecture: str) -> None:
    files = tiny(tmp_path, architecture)
    texts = make_texts(9)
    found = opened(tmp_path, files, make_rows(tmp_path / "rows", {"train": texts}), precision="bf16")
    x = found.rows("train").array("last")
    assert found.facts["dtype"] == "bfloat16"
    body = loaded(files, torch.bfloat16)
    for row in range(9):
        hidden = alone(body, texts[row])[-1]
        np.testing.assert_allclose(
            x[row], hidden[-1] if architecture == "llama" else hidden.mean(0), **ALIKE_BF16
        )


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_every_layer_is_pooled_as_asked(tmp_path: Path, architecture: str, pooling: str) -> None:
    files = tiny(tmp_path, architecture)
    texts = make_texts(7)
    rows = make_rows(tmp_path / "rows", {"train": texts})
    layers = ("mean", "0", "2", "last")
    found = opened(tmp_path, files, rows, layers=layers, pooling=pooling).rows("train")
    pick = {"mean": lambda h: h.mean(0), "first": lambda h: h[0], "last": lambda h: h[-1]}[pooling]
    body = loaded(files)
    for row in range(7):
        states = [pick(state) for state in alone(body, texts[row])]
        expected = {"mean": np.mean(states[1:], axis=0), "0": states[0], "2": states[2], "last": states[-1]}
        for layer in layers:
            np.testing.assert_allclose(found.array(layer)[row], expected[layer], **ALIKE)


def test_padding_does_not_count_whatever_stands_there() -> None:
    hidden = torch.tensor([[[1.0], [3.0], [torch.nan]], [[2.0], [torch.inf], [torch.nan]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    for pooling, expected in (("mean", [2.0, 2.0]), ("first", [1.0, 2.0]), ("last", [3.0, 2.0])):
        assert forward.pool(hidden, mask, pooling)[:, 0].tolist() == expected


def test_sums_of_bf16_are_taken_in_fp32() -> None:
    hidden = torch.ones(1, 4099, 1, dtype=torch.bfloat16)
    hidden[0, :3] = 2.0
    assert forward.pool(hidden, torch.ones(1, 4099, dtype=torch.bool), "mean").item() == pytest.approx(
        4102 / 4099, rel=1e-6
    )


def test_rows_keep_their_order_and_blocks_and_labels_agree(tmp_path: Path) -> None:
    texts = make_texts(50)
    files = tiny(tmp_path)
    rows = make_rows(tmp_path / "rows", {"test": make_texts(5, seed=3), "train": texts})
    found = opened(tmp_path, files, rows).rows("train")
    x = found.array("last")
    assert np.array_equal(np.concatenate(list(found.blocks("last", 7))), x)
    assert [len(block) for block in found.blocks("last", 20)] == [20, 20, 10]
    assert found.labels.tolist() == [int((row + 5) % 3 == 2) for row in range(50)]
    backwards = make_rows(tmp_path / "back", {"train": texts[::-1]})
    y = opened(tmp_path, files, backwards).rows("train").array("last")
    np.testing.assert_allclose(y[::-1], x, **ALIKE)


def test_the_first_rows_alone_are_taken(tmp_path: Path) -> None:
    files, rows = tiny(tmp_path), make_rows(tmp_path / "rows", {"train": make_texts(20)})
    few = opened(tmp_path, files, rows, max_rows=6).rows("train")
    assert len(few.labels) == 6
    every = opened(tmp_path, files, rows).rows("train").array("last")
    np.testing.assert_allclose(few.array("last"), every[:6], **ALIKE)


def test_texts_are_cut_to_what_was_asked_or_what_the_body_takes(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "rows", {"train": ["good " * 500, "good"]})
    files = tiny(tmp_path)
    for asked, effective in ((8, 8), (100_000, POSITIONS)):
        found = opened(tmp_path, files, rows, max_tokens=asked)
        found.rows("train")
        assert found.facts["max_tokens"] == effective
        assert found.facts["tokens"] == effective + 3
        assert found.facts["truncated"] == 0.5
    relative = opened(tmp_path, tiny(tmp_path, "t5"), rows, max_tokens=400)
    relative.rows("train")
    assert relative.facts["tokens"] > 400


def test_a_source_head_speaks_in_the_same_pass(tmp_path: Path) -> None:
    files = tiny(tmp_path, labels=3)
    texts = make_texts(9)
    rows = make_rows(tmp_path / "rows", {"train": texts})
    found = opened(tmp_path, files, rows).rows("train")
    said = found.source_probabilities()
    assert said is not None
    assert said.shape == (9, 3)
    np.testing.assert_allclose(said.sum(1), 1.0, rtol=1e-6)
    body = load_body(files, pick_device(), torch.float32, with_head=True)
    with torch.inference_mode():
        for row in range(9):
            logits = body.model(**body.tokenizer(texts[row], return_tensors="pt").to(pick_device())).logits
            np.testing.assert_allclose(said[row], logits[0].softmax(-1).cpu(), **ALIKE)
    headless = tiny(tmp_path, "roberta")
    assert opened(tmp_path, headless, rows).rows("train").source_probabilities() is None


class Reports:
    """Remembers what was reported."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.fractions: list[float] = []

    def __call__(self, fraction: float, stage: str, message: str) -> None:
        assert 0.0 <= fraction <= 1.0
        self.stages.append(stage)
        self.fractions.append(fraction)


def test_what_is_equal_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tiny(tmp_path, labels=2)
    rows = make_rows(tmp_path / "rows", {"train": make_texts(20), "test": make_texts(5, seed=1)})
    reports = Reports()
    first = opened(tmp_path, files, rows, report=reports)
    x, said = first.rows("train").array("last"), first.rows("train").source_probabilities()
    assert first.facts["cached"] is False
    assert list(dict.fromkeys(reports.stages)) == ["tokens", "features"]
    assert reports.fractions == sorted(reports.fractions)
    monkeypatch.setattr(features, "SHELF", None)  # no body can be had
    reports = Reports()
    again = opened(tmp_path, files, rows, report=reports)
    assert np.array_equal(again.rows("train").array("last"), x)
    assert np.array_equal(again.rows("train").source_probabilities(), said)
    assert reports.stages == []
    assert again.facts == first.facts | {"cached": True}
    assert again.dimension == HIDDEN
    assert again.classes == ("a", "b")


def test_a_further_layer_takes_one_pass_for_what_is_missing(tmp_path: Path) -> None:
    files, rows = tiny(tmp_path, labels=2), make_rows(tmp_path / "rows", {"train": make_texts(20)})
    opened(tmp_path, files, rows).rows("train")
    (part,) = (tmp_path / "cache").glob("features/*/last.f32")
    written = part.stat().st_mtime_ns
    more = opened(tmp_path, files, rows, layers=("last", "mean", "1"))
    assert len(more.rows("train").array("1")) == 20
    assert more.facts["cached"] is False
    assert part.stat().st_mtime_ns == written
    assert {path.name for path in part.parent.glob("*.f32")} == {
        "last.f32",
        "mean.f32",
        "1.f32",
        "source.f32",
    }


@pytest.mark.parametrize(
    "other", [{"pooling": "first"}, {"max_tokens": 9}, {"max_rows": 7}, {"precision": "bf16"}]
)
def test_what_is_not_equal_is_not_shared(tmp_path: Path, other: dict) -> None:
    files, rows = tiny(tmp_path), make_rows(tmp_path / "rows", {"train": make_texts(20)})
    opened(tmp_path, files, rows).rows("train")
    found = opened(tmp_path, files, rows, **other)
    found.rows("train")
    assert found.facts["cached"] is False


def test_other_weights_are_another_entry(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "rows", {"train": make_texts(5)})
    x = opened(tmp_path, tiny(tmp_path), rows).rows("train").array("last")
    y = opened(tmp_path, tiny(tmp_path, seed=1), rows).rows("train").array("last")
    assert not np.allclose(x, y)


def test_the_body_loaded_last_is_kept_for_the_next_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(
        features, "load_body", lambda *given, **how: calls.append(given[0]) or load_body(*given, **how)
    )
    bert, gpt2 = tiny(tmp_path), tiny(tmp_path, "gpt2")
    for number, files in enumerate((bert, bert, gpt2, bert)):
        rows = make_rows(tmp_path / f"rows{number}", {"train": make_texts(5, seed=number)})
        opened(tmp_path, files, rows).rows("train")
    assert calls == [bert, gpt2, bert]


def test_memory_that_runs_out_halves_the_batches_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, rows = tiny(tmp_path), make_rows(tmp_path / "rows", {"train": make_texts(40)})
    expected = opened(tmp_path, files, rows).rows("train").array("last")
    pooled, sizes = forward._pooled, []

    def scarce(body, tokens, batch, *rest):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return pooled(body, tokens, batch, *rest)

    monkeypatch.setattr(forward, "_pooled", scarce)
    found = opened(tmp_path, files, rows, cache="other")
    np.testing.assert_allclose(found.rows("train").array("last"), expected, **ALIKE)
    failed = sum(size > 2 for size in sizes)
    assert found.facts["out_of_memory_retries"] == failed >= 1
    assert sum(sizes) - sum(size for size in sizes if size > 2) == 40
    assert found.facts["batch_tokens"] < 100


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), MemoryError()])
def test_one_row_that_does_not_fit_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def never_fits(*_: object) -> None:
        raise error

    monkeypatch.setattr(forward, "_pooled", never_fits)
    rows = make_rows(tmp_path / "rows", {"train": ["good film"] * 9})
    with pytest.raises(OutOfMemory, match="One text of 4 tokens does not fit"):
        opened(tmp_path, tiny(tmp_path), rows).rows("train")


def test_nan_weights_are_told_with_the_rows_they_spoil(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_tiny("bert", tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.1.output.dense.weight"][:] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    files = read_folder(folder, roots=[tmp_path], pickles=False)
    rows = make_rows(tmp_path / "rows", {"train": ["good film"] * 9})
    with pytest.raises(NonFinite, match="layer last are NaN or infinite on 9 of 9 rows"):
        opened(tmp_path, files, rows).rows("train")
    assert opened(tmp_path, files, rows, layers=("1",)).rows("train").array("1").shape == (9, HIDDEN)


def test_a_tokenizer_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    files = tiny(tmp_path, vocab_size=20)
    rows = make_rows(tmp_path / "rows", {"train": ["good film"]})
    with pytest.raises(Refused, match="the embeddings end at 19"):
        opened(tmp_path, files, rows).rows("train")


def test_what_the_target_or_the_checkpoint_has_not_does_not_apply(tmp_path: Path) -> None:
    files, rows = tiny(tmp_path), make_rows(tmp_path / "rows", {"train": ["good film"]})
    with pytest.raises(NotApplicable, match=f"no layer {LAYERS + 1}: this bert has {LAYERS}"):
        opened(tmp_path, files, rows, layers=(str(LAYERS + 1),))
    with pytest.raises(NotApplicable, match="no validation rows"):
        opened(tmp_path, files, rows).rows("validation")


def test_a_cancel_passes_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    def stop(fraction: float, stage: str, _message: str) -> None:
        if stage == "features" and fraction > 0.5:
            raise Cancelled

    files, rows = tiny(tmp_path), make_rows(tmp_path / "rows", {"train": make_texts(40)})
    with pytest.raises(Cancelled):
        opened(tmp_path, files, rows, report=stop).rows("train")
    assert not list((tmp_path / "cache").glob("features/*/*.f32"))
    assert not list((tmp_path / "cache").glob("features/*/making-*"))
    assert len(opened(tmp_path, files, rows).rows("train").array("last")) == 40


GROWTH = """
import resource, sys
from pathlib import Path
from headstart.rows import RowsFile
from headstart.workbench import FeatureSpec
from worker.cache import Cache
from worker.checkpoints import read_folder
from worker.features import open_features
folder = Path(sys.argv[1])
for count in map(int, sys.argv[2:]):
    found = open_features(
        files=read_folder(folder / "bert", roots=[folder], pickles=False), rows=RowsFile(folder / str(count)),
        spec=FeatureSpec(layers=("last", "mean", "0", "1"), max_rows=count, precision="fp32"),
        cache=Cache(folder / "cache", 1 << 30), report=lambda *_: None,
    )
    assert sum(len(block) for block in found.rows("train").blocks("last", 256)) == count
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    make_tiny("bert", tmp_path / "bert", hidden_size=512, num_hidden_layers=1)
    counts = (6_000, 24_000)  # the first fills what libraries keep for themselves
    for count in counts:
        make_rows(tmp_path / str(count), {"train": make_texts(count, longest=2)})
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(tmp_path), *map(str, counts)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    few, many = (int(line) * (1 if sys.platform == "darwin" else 1024) for line in done.stdout.split())
    features_bytes = (counts[1] - counts[0]) * 512 * 4 * 4  # 147 MB, were they kept in memory
    assert many - few < features_bytes / 2
