"""Checkpoints that are cut short, lie about their shape or want to run code: a sentence, no memory."""

from __future__ import annotations

import json
import resource
import struct
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from headstart.failures import JobFailure, NotApplicable, OutOfMemory, Refused
from tests.worker.tiny_checkpoints import make_tiny
from worker.bodies import load_body
from worker.checkpoints import read_folder
from worker.reading import told_as

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


def load(folder: Path, *, pickles: bool = False) -> None:
    files = read_folder(folder, roots=[folder], pickles=pickles)
    load_body(files, torch.device("cpu"), torch.float32, with_head=True)


def failure_of(folder: Path, **options: bool) -> JobFailure:
    with pytest.raises(JobFailure) as caught:
        load(folder, **options)
    assert caught.value.sentence.endswith(".") or ": " in caught.value.sentence
    assert caught.value.remedy.endswith(".")
    return caught.value


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return make_tiny("bert", tmp_path / "bert")


def rewrite(folder: Path, changes: dict[str, Any], name: str = CONFIG) -> None:
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))


def header_of(folder: Path) -> tuple[dict[str, Any], bytes]:
    raw = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write_header(folder: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)


def cut_short(folder: Path) -> None:
    raw = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(raw[: len(raw) * 2 // 3])


def cut_in_the_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:50])


def empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def no_tensors(folder: Path) -> None:
    save_file({}, folder / WEIGHTS)


def longer_than_said(folder: Path) -> None:
    with (folder / WEIGHTS).open("ab") as file:
        file.write(b"more")


def a_huge_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 1 << 62) + b"{}")


def offsets_beyond_the_file(folder: Path) -> None:
    header, data = header_of(folder)
    name = max(header, key=lambda n: header[n].get("data_offsets", [0, 0])[1])
    header[name]["data_offsets"][1] += 1 << 40
    write_header(folder, header, data)


def overlapping(folder: Path) -> None:
    header, data = header_of(folder)
    one, other, *_ = [name for name in header if header[name].get("shape") == [32]]
    header[other]["data_offsets"] = header[one]["data_offsets"]
    write_header(folder, header, data)


def a_shape_of_other_size(folder: Path) -> None:
    header, data = header_of(folder)
    name = next(name for name in header if name.endswith("query.weight"))
    header[name]["shape"] = [1 << 40, 1 << 20]
    write_header(folder, header, data)


@pytest.mark.parametrize(
    "spoil",
    [
        cut_short,
        cut_in_the_header,
        empty,
        longer_than_said,
        a_huge_header,
        offsets_beyond_the_file,
        overlapping,
        a_shape_of_other_size,
    ],
)
def test_broken_safetensors_are_refused(bert: Path, spoil: Any) -> None:
    spoil(bert)
    failure = failure_of(bert)
    assert isinstance(failure, Refused)
    assert failure.sentence.startswith("model.safetensors is broken: ")
    assert "download the weights again" in failure.remedy


def test_a_file_without_tensors_is_refused(bert: Path) -> None:
    no_tensors(bert)
    assert "holds no tensors" in failure_of(bert).sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden_size": 10**9}, "hidden_size = 1000000000"),
        ({"intermediate_size": 10**12}, "intermediate_size = 1000000000000"),
        ({"vocab_size": 10**9}, "vocab_size = 1000000000"),
        ({"num_hidden_layers": 1_000_000}, "num_hidden_layers = 1000000"),
        ({"num_labels": 10**9}, "num_labels = 1000000000"),
        ({"sub": [{"n_layers": 10**7}]}, "n_layers = 10000000"),
        ({"max_position_embeddings": 10**10}, "max_position_embeddings = 10000000000"),
        ({"max_position_embeddings": 1 << 24}, "describes a bert of"),
        ({"hidden_size": 64}, "numbers|has the shape"),
        ({"intermediate_size": 60}, r"has the shape \(64,\), and config.json says \(60,\)"),
        ({"vocab_size": 100}, r"word_embeddings.weight has the shape \(153, 32\)"),
        ({"num_hidden_layers": 2}, "says 2 layers, and the weights have more: .*layer.2"),
        ({"num_hidden_layers": 4}, "lack 16 tensors of the bert .*layer.3"),
        ({"model_type": "roberta"}, "lack|has the shape"),
        ({"num_attention_heads": 5}, "No bert can be built"),
        ({"num_attention_heads": 0}, "No bert can be built"),
        ({"hidden_size": -32}, "No bert can be built"),
        ({"hidden_act": "made_up"}, "No bert can be built"),
        ({"hidden_size": "thirty-two"}, "no configuration of a bert|No bert can be built"),
    ],
)
def test_a_config_that_lies_is_refused_before_memory_is_taken(
    bert: Path, changes: dict[str, Any], sentence: str
) -> None:
    rewrite(bert, changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Refused, match=sentence) as caught:
        load(bert)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 << 10  # KiB
    assert "configuration" in caught.value.remedy


def test_empty_tensors_do_not_vouch_for_a_size(bert: Path) -> None:
    tensors = load_file(bert / WEIGHTS) | {"vast": torch.empty(0, 1 << 40)}
    save_file(tensors, bert / WEIGHTS)
    rewrite(bert, {"num_labels": 1 << 40})
    assert "num_labels" in failure_of(bert).sentence


@pytest.mark.parametrize("name", [CONFIG, "tokenizer_config.json"])
def test_code_of_a_checkpoint_is_never_run(bert: Path, name: str) -> None:
    (bert / "evil.py").write_text("raise SystemExit('ran')")
    rewrite(bert, {"auto_map": {"AutoModel": "evil.Model", "AutoTokenizer": [None, "evil.T"]}}, name)
    failure = failure_of(bert)
    assert isinstance(failure, Refused)
    assert f"{name} asks for code of the checkpoint's own (auto_map)" in failure.sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "llamabert"}, "names the model type 'llamabert', which this worker does not know"),
        ({"model_type": None}, "names the model type 'None'"),
        ({"model_type": ["bert"]}, "names the model type"),
        ({"model_type": "vit"}, "A vit is no text model"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised"),
    ],
)
def test_what_no_worker_can_load_is_not_applicable(
    bert: Path, changes: dict[str, Any], sentence: str
) -> None:
    rewrite(bert, changes)
    failure = failure_of(bert)
    assert isinstance(failure, NotApplicable)
    assert sentence in failure.sentence


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": {"type": "WordPiece"}}', "null"])
def test_a_broken_tokenizer_is_refused(bert: Path, text: str) -> None:
    (bert / TOKENIZER).write_text(text)
    failure = failure_of(bert)
    assert isinstance(failure, Refused)
    assert "tokenizer" in failure.sentence


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_config_does_not_choose_the_kernels(bert: Path, key: str) -> None:
    rewrite(bert, {key: "somebody/kernels", "use_kernels": True})
    load(bert)


def test_an_adapter_beside_the_weights_is_not_followed(bert: Path) -> None:
    (bert / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/else"}))
    load(bert)


class Evil:
    """Unpickled by anything but weights_only, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_a_pickle_that_wants_to_run_code_is_refused(bert: Path, tmp_path: Path) -> None:
    (bert / WEIGHTS).unlink()
    torch.save({"weight": Evil(tmp_path / "ran")}, bert / "pytorch_model.bin")
    assert isinstance(failure_of(bert, pickles=True), Refused)
    assert not (tmp_path / "ran").exists()


def test_a_pickled_tensor_of_nothing_is_refused(bert: Path) -> None:
    (bert / WEIGHTS).unlink()
    torch.save({"weight": torch.zeros(1).expand(1 << 40)}, bert / "pytorch_model.bin")
    assert "larger than what is stored" in failure_of(bert, pickles=True).sentence


def test_too_little_memory_is_told_as_such() -> None:
    said = "[enforce fail at alloc_cpu.cpp:116] . DefaultCPUAllocator: can't allocate memory: you tried ..."
    for error in (MemoryError("no room"), RuntimeError(said), torch.OutOfMemoryError("CUDA out of memory.")):
        with (
            pytest.raises(OutOfMemory, match="The weights do not fit: "),
            told_as(Refused, "The weights do not fit", ""),
        ):
            raise error
