"""Task vectors of small checkpoints, saved in every way, against what their weights say."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from headstart.entities import Lineage
from headstart.regions.lineage import copies, verdict
from headstart.regions.sketch import sketch_of
from tests.worker.small_rows import ignore
from tests.worker.tiny_checkpoints import ARCHITECTURES, make_tiny
from worker.checkpoints import read_folder
from worker.task_vectors import task_vector

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from headstart.regions.task_vector import TaskVector

WEIGHTS = "model.safetensors"
WORDS = "embeddings.word_embeddings.weight"
DIMS = 2048
State = dict[str, torch.Tensor]


def read(folder: Path, vanilla: Path, **changes: object) -> TaskVector:
    files = (read_folder(one, roots=[one], pickles=True) for one in (folder, vanilla))
    return task_vector(*files, dims=DIMS, report=ignore, **changes)  # type: ignore[arg-type]


def change(folder: Path, edit: Callable[[State], State]) -> Path:
    save_file(edit(load_file(folder / WEIGHTS)), folder / WEIGHTS, {"format": "pt"})
    return folder


def moved(state: State, seed: int = 1, share: float = 0.05) -> State:
    """As a finetune leaves them: every tensor of floats, a head's too, by a share of its size."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: x + share * x.std() * torch.randn(x.shape, generator=generator) if x.is_floating_point() else x
        for name, x in state.items()
    }


def configure(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def plain(state: State) -> State:
    return {
        name.removeprefix("bert."): x for name, x in state.items() if not name.startswith(("cls.", "class"))
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vanilla as a masked language model, and a finetune of it as a classifier with its pooler."""
    root = tmp_path_factory.mktemp("saved")
    make_tiny("bert", root / "vanilla")
    make_tiny("bert", root / "tuned", labels=3)
    start = plain(load_file(root / "vanilla" / WEIGHTS))
    change(
        root / "tuned",
        lambda state: moved({name: start.get(name.removeprefix("bert."), x) for name, x in state.items()}),
    )
    return root


@pytest.fixture
def root(saved: Path, tmp_path: Path) -> Path:
    """Copies to spoil."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    return tmp_path


def exact(root: Path, tuned: str = "tuned") -> dict[str, np.ndarray]:
    ours, theirs = (plain(load_file(root / name / WEIGHTS)) for name in (tuned, "vanilla"))
    return {name: (ours[name].float() - theirs[name].float()).numpy() for name in ours.keys() & theirs.keys()}


def norm(tensors: dict[str, np.ndarray]) -> float:
    return math.sqrt(sum(float((x.astype(np.float64) ** 2).sum()) for x in tensors.values()))


def test_it_is_the_difference_of_the_bodies_by_name(saved: Path) -> None:
    found, delta = read(saved / "tuned", saved / "vanilla"), exact(saved)
    np.testing.assert_allclose(found.sketch, sketch_of(delta, dims=DIMS), atol=1e-5)
    assert found.sketch.dtype == np.float32
    assert found.norm == pytest.approx(norm(delta), rel=1e-6)
    assert {one.name: one.shape for one in found.tensors} == {name: x.shape for name, x in delta.items()}
    for one in found.tensors:
        assert one.delta_norm == pytest.approx(norm({"": delta[one.name]}), rel=1e-5)
    assert found.matched_elements == sum(x.size for x in delta.values())
    assert dict(found.left_out) == dict.fromkeys(
        ("pooler.dense.bias", "pooler.dense.weight"), "the vanilla lacks it"
    )
    assert (found.outside, found.identical, found.dtype, found.vocabulary) == (2, False, "F32", 1.0)
    assert verdict(found).state is Lineage.VERIFIED


def test_a_body_without_a_prefix_and_one_within_a_model_are_the_same(root: Path) -> None:
    within = read(root / "tuned", root / "vanilla")
    change(root / "vanilla", plain)
    change(root / "tuned", plain)
    assert read(root / "tuned", root / "vanilla").sketch.tolist() == within.sketch.tolist()
    bare = transformers.AutoModel.from_pretrained(root / "tuned")
    bare.save_pretrained(root / "tuned")
    assert read(root / "tuned", root / "vanilla").sketch.tolist() == within.sketch.tolist()


def test_layer_norms_may_have_their_old_names(root: Path) -> None:
    before = read(root / "tuned", root / "vanilla")

    def old(state: State) -> State:
        names = {name: name.replace("LayerNorm.weight", "LayerNorm.gamma") for name in state}
        return {names[name].replace("LayerNorm.bias", "LayerNorm.beta"): x for name, x in state.items()}

    change(root / "vanilla", old)
    assert read(root / "tuned", root / "vanilla").sketch.tolist() == before.sketch.tolist()


def test_the_order_in_the_file_changes_no_bit(root: Path) -> None:
    before = read(root / "tuned", root / "vanilla")
    raw = (root / "tuned" / WEIGHTS).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    told, parts, at = {}, [], 0
    for name in sorted((name for name in header if name != "__metadata__"), reverse=True):
        begin, end = header[name]["data_offsets"]
        parts.append(data[begin:end])
        told[name] = header[name] | {"data_offsets": [at, at + end - begin]}
        at += end - begin
    text = json.dumps(told).encode()
    (root / "tuned" / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))
    after = read(root / "tuned", root / "vanilla")
    assert after.sketch.tolist() == before.sketch.tolist()
    assert after.facts() == before.facts()


def test_shards_change_no_bit(root: Path) -> None:
    before = read(root / "tuned", root / "vanilla")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(root / "tuned")
    (root / "tuned" / WEIGHTS).unlink()
    model.save_pretrained(root / "tuned", max_shard_size="40KB")
    assert len(list((root / "tuned").glob("*.safetensors"))) > 2
    assert read(root / "tuned", root / "vanilla").sketch.tolist() == before.sketch.tolist()


def test_pickles_are_read_where_they_are_allowed(root: Path) -> None:
    before = read(root / "tuned", root / "vanilla")
    torch.save(load_file(root / "tuned" / WEIGHTS), root / "tuned" / "pytorch_model.bin")
    (root / "tuned" / WEIGHTS).unlink()
    assert read(root / "tuned", root / "vanilla").sketch.tolist() == before.sketch.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_compared_as_they_are(root: Path, dtype: torch.dtype) -> None:
    whole = read(root / "tuned", root / "vanilla")
    change(root / "tuned", lambda state: {name: x.to(dtype) for name, x in state.items()})
    found, delta = read(root / "tuned", root / "vanilla"), exact(root)
    np.testing.assert_allclose(found.sketch, sketch_of(delta, dims=DIMS), atol=1e-5)
    assert found.norm == pytest.approx(norm(delta), rel=1e-6)
    assert found.dtype == {"bfloat16": "BF16", "float16": "F16", "float64": "F64"}[str(dtype)[6:]]
    assert float(np.linalg.norm(found.sketch - whole.sketch)) < 0.1 * whole.norm
    assert verdict(found).state is Lineage.VERIFIED


def test_the_vanilla_may_be_stored_in_fewer_bits(root: Path) -> None:
    change(root / "vanilla", lambda state: {name: x.bfloat16() for name, x in state.items()})
    found = read(root / "tuned", root / "vanilla")
    assert found.norm == pytest.approx(norm(exact(root)), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_untouched_weights_have_no_task_vector(root: Path, dtype: torch.dtype) -> None:
    shutil.copyfile(root / "vanilla" / WEIGHTS, root / "tuned" / WEIGHTS)
    change(root / "tuned", lambda state: {name: x.to(dtype) for name, x in plain(state).items()})
    copy = read(root / "tuned", root / "vanilla")
    assert copy.identical
    assert (copy.norm, copy.relative, bool(copy.sketch.any()), copy.outside) == (0.0, 0.0, False, 0)
    assert "untouched copy" in verdict(copy).reason
    head = change(root / "tuned", lambda state: state | {"classifier.weight": torch.ones(3, 32)})
    only_head = read(head, root / "vanilla")
    assert only_head.identical
    assert "the 1 tensors beside its body" in verdict(only_head).reason
    change(root / "tuned", lambda state: state | {WORDS: state[WORDS] * 1.01})
    assert not read(root / "tuned", root / "vanilla").identical


def test_a_tied_table_is_counted_once(root: Path) -> None:
    before = read(root / "tuned", root / "vanilla")

    def untied(state: State) -> State:
        table = state[f"bert.{WORDS}"]
        return state | {"cls.predictions.decoder.weight": table.clone()}

    change(root / "vanilla", untied)
    change(root / "tuned", untied)
    found = read(root / "tuned", root / "vanilla")
    assert found.sketch.tolist() == before.sketch.tolist()
    assert found.matched_elements == before.matched_elements


def test_integer_buffers_are_passed_over(root: Path) -> None:
    before = read(root / "tuned", root / "vanilla")
    for name, length in (("vanilla", 128), ("tuned", 64)):
        buffer = {"bert.embeddings.position_ids": torch.arange(length)[None]}
        change(root / name, lambda state, buffer=buffer: state | buffer)
    found = read(root / "tuned", root / "vanilla")
    assert found.sketch.tolist() == before.sketch.tolist()
    assert found.left_out == before.left_out


def test_a_missing_pooler_leaves_the_rest_comparable(root: Path) -> None:
    pooler = {"pooler.dense.weight": torch.ones(32, 32), "pooler.dense.bias": torch.ones(32)}
    change(root / "vanilla", lambda state: plain(state) | pooler)
    whole, delta = read(root / "tuned", root / "vanilla"), exact(root)
    change(root / "tuned", lambda state: {name: x for name, x in state.items() if "pooler" not in name})
    without = read(root / "tuned", root / "vanilla")
    assert whole.left_out == ()
    assert dict(without.left_out) == dict.fromkeys(pooler, "the checkpoint lacks it")
    only = sketch_of({name: delta[name] for name in pooler}, dims=DIMS)
    np.testing.assert_allclose(whole.sketch - without.sketch, only, atol=1e-4)
    assert verdict(without).state is Lineage.VERIFIED


@pytest.mark.parametrize("rows", [5, -3])
def test_of_a_resized_vocabulary_the_common_rows_are_compared(root: Path, rows: int) -> None:
    def resized(state: State) -> State:
        table = state[f"bert.{WORDS}"]
        grown = torch.cat([table, torch.ones(max(rows, 0), table.shape[1])])
        return state | {f"bert.{WORDS}": grown[: len(table) + rows].clone()}

    before, size = exact(root), len(exact(root)[WORDS])
    change(root / "tuned", resized)
    configure(root / "tuned", vocab_size=size + rows)
    found = read(root / "tuned", root / "vanilla")
    kept = min(size, size + rows)
    delta = before | {WORDS: before[WORDS][:kept]}
    np.testing.assert_allclose(found.sketch, sketch_of(delta, dims=DIMS), atol=1e-5)
    assert dict(found.left_out)[WORDS] == f"rows past {kept}: it has {size + rows}, the vanilla {size}"
    assert verdict(found).state is Lineage.VERIFIED


def retokenised(folder: Path, share: float) -> None:
    """The last tokens of the vocabulary are others."""
    told = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = told["model"]["vocab"]
    first = int((1 - share) * len(vocabulary))
    told["model"]["vocab"] = {(f"new{n}" if n >= first else token): n for token, n in vocabulary.items()}
    told["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(told))


def test_rows_of_other_tokens_are_not_compared(root: Path) -> None:
    delta = exact(root)
    del delta[WORDS]
    retokenised(root / "tuned", 0.2)
    some = read(root / "tuned", root / "vanilla")
    np.testing.assert_allclose(some.sketch, sketch_of(delta, dims=DIMS), atol=1e-5)
    assert "of other tokens" in dict(some.left_out)[WORDS]
    assert some.vocabulary == pytest.approx(0.8, abs=0.02)
    assert verdict(some).state is Lineage.VERIFIED
    retokenised(root / "tuned", 0.9)
    told = verdict(read(root / "tuned", root / "vanilla"))
    assert told.state is Lineage.CONTRADICTED
    assert "another vocabulary" in told.reason


def test_where_no_file_tells_the_tokens_only_equal_shapes_are_compared(root: Path) -> None:
    (root / "tuned" / "tokenizer.json").unlink()
    (root / "tuned" / "spiece.model").write_bytes(b"x")
    same = read(root / "tuned", root / "vanilla")
    assert same.vocabulary is None
    assert WORDS in {one.name for one in same.tensors}
    change(root / "tuned", lambda state: state | {f"bert.{WORDS}": torch.ones(7, 32)})
    configure(root / "tuned", vocab_size=7)
    assert "has the shape [7, 32]" in dict(read(root / "tuned", root / "vanilla").left_out)[WORDS]


def test_two_vanillas_of_one_architecture_are_told_apart(root: Path) -> None:
    make_tiny("bert", root / "other", seed=9)
    assert verdict(read(root / "tuned", root / "vanilla")).state is Lineage.VERIFIED
    told = verdict(read(root / "tuned", root / "other"))
    assert told.state is Lineage.CONTRADICTED
    assert "another pretraining" in told.reason


@pytest.mark.parametrize(("other", "says"), [("gpt2", "it is a gpt2"), ("roberta", "")])
def test_another_architecture_is_contradicted(root: Path, other: str, says: str) -> None:
    told = verdict(read(make_tiny(other, root / "other"), root / "vanilla"))
    assert told.state is Lineage.CONTRADICTED
    assert says in told.reason


def test_renamed_tensors_are_contradicted(root: Path) -> None:
    change(root / "tuned", lambda state: {name.replace("layer.", "block."): x for name, x in state.items()})
    told = verdict(read(root / "tuned", root / "vanilla"))
    assert told.state is Lineage.CONTRADICTED
    assert "by name and shape" in told.reason


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_its_own_finetune(architecture: str, tmp_path: Path) -> None:
    vanilla = make_tiny(architecture, tmp_path / "vanilla")
    shutil.copytree(vanilla, tmp_path / "tuned")
    change(tmp_path / "tuned", moved)
    found = read(tmp_path / "tuned", vanilla)
    told = verdict(found)
    assert told.state is Lineage.VERIFIED, told.reason
    assert found.left_out == ()
    assert found.relative == pytest.approx(0.05, abs=0.02)
    assert not any("lm_head" in one.name or "cls." in one.name for one in found.tensors)


def test_copies_and_other_runs_are_told_apart(root: Path) -> None:
    for name in ("copy", "other"):
        shutil.copytree(root / "tuned", root / name)
    change(root / "copy", plain)
    change(root / "other", lambda state: moved(state, seed=2))
    sketches = [read(root / name, root / "vanilla").sketch for name in ("tuned", "other", "copy", "vanilla")]
    assert copies(np.stack(sketches)) == ((0, 2),)
