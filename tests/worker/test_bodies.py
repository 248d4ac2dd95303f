"""Bodies of every architecture: what they give is what transformers gives by itself."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from headstart.failures import NotApplicable
from tests.worker.tiny_checkpoints import ARCHITECTURES, DECODERS, HIDDEN, LAYERS, POSITIONS, make_tiny
from worker.bodies import Body, load_body, tap
from worker.checkpoints import read_folder

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")
TEXT, PAIR = "the film was good", "and a very long plot"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each architecture: heads of language models, and (name-3) classifiers of 3 labels."""
    root = tmp_path_factory.mktemp("tiny")
    plain = {name: make_tiny(name, root / name) for name in ARCHITECTURES}
    return plain | {f"{name}-3": make_tiny(name, root / f"{name}-3", labels=3) for name in ARCHITECTURES}


def load(folder: Path, dtype: torch.dtype = torch.float32, *, with_head: bool = False) -> Body:
    files = read_folder(folder, roots=[folder.parent], pickles=True)
    return load_body(files, CPU, dtype, with_head=with_head)


def inputs_of(body: Body, *texts: str) -> dict[str, torch.Tensor]:
    encoded = body.tokenizer(*texts, return_tensors="pt")
    return {name: value for name, value in encoded.items() if name != "token_type_ids" or body.takes_types}


def seen(body: Body, layer: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    found: list[torch.Tensor] = []
    with tap(body, layer, found.append), torch.inference_mode():
        body.model(**inputs)
    (hidden,) = found
    return hidden


def plain_model(folder: Path) -> Any:
    kind = transformers.T5EncoderModel if folder.name.startswith("t5") else transformers.AutoModel
    return kind.from_pretrained(folder).eval()


@pytest.mark.parametrize("name", [*ARCHITECTURES, *(f"{name}-3" for name in ARCHITECTURES)])
def test_a_body_gives_what_the_library_gives(tiny: dict[str, Path], name: str) -> None:
    body = load(tiny[name], with_head=True)
    inputs = inputs_of(body, TEXT, PAIR)
    with torch.inference_mode():
        told = plain_model(tiny[name])(**inputs, output_hidden_states=True)
    torch.testing.assert_close(seen(body, "last", inputs), told.last_hidden_state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen(body, "0", inputs), told.hidden_states[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen(body, "2", inputs), told.hidden_states[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_body_knows_itself(tiny: dict[str, Path], name: str) -> None:
    body = load(tiny[name])
    assert (body.layers, body.dimension, body.padded) == (LAYERS, HIDDEN, True)
    assert body.architecture == ("deberta-v2" if name == "deberta-v3" else name)
    assert body.causal is (name in DECODERS)
    assert body.pooling == ("last" if name in DECODERS else "mean")
    assert body.most_tokens == (None if name == "t5" else POSITIONS)
    assert body.takes_types is (name in {"bert", "electra"})
    assert 0 <= body.pad_id < body.vocabulary == len(body.tokenizer)
    assert not body.model.training
    assert not any(parameter.requires_grad for parameter in body.model.parameters())
    assert all("pooler" in tensor for tensor in body.loading["missing"])
    assert body.classify is None


def test_positions_end_where_it_says(tiny: dict[str, Path]) -> None:
    body = load(tiny["roberta"])
    assert body.most_tokens is not None
    token = body.tokenizer.convert_tokens_to_ids("a")
    most = torch.full((1, body.most_tokens), token)
    seen(body, "last", {"input_ids": most, "attention_mask": torch.ones_like(most)})
    beyond = torch.full((1, body.most_tokens + 1), token)
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        seen(body, "last", {"input_ids": beyond, "attention_mask": torch.ones_like(beyond)})


def test_the_decoder_of_an_encoder_decoder_is_not_kept(tiny: dict[str, Path]) -> None:
    body = load(tiny["t5"])
    assert not [name for name, _ in body.model.named_parameters() if "decoder" in name]


def test_an_encoder_decoder_without_an_encoder_class_keeps_its_encoder(tmp_path: Path) -> None:
    make_tiny("roberta", tmp_path / "bart")  # for its tokenizer
    config = transformers.BartConfig(
        vocab_size=303,
        d_model=HIDDEN,
        encoder_layers=2,
        decoder_layers=1,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        max_position_embeddings=40,
    )
    model = transformers.BartForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "bart")
    body = load(tmp_path / "bart")
    assert (body.layers, body.most_tokens, body.causal) == (2, 40, False)
    assert not [name for name, _ in body.model.named_parameters() if "decoder" in name]
    inputs = inputs_of(body, TEXT)
    with torch.inference_mode():
        told = model.get_encoder()(**inputs).last_hidden_state
    torch.testing.assert_close(seen(body, "last", inputs), told, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "t5"])
def test_a_source_head_speaks_in_the_same_pass(tiny: dict[str, Path], name: str) -> None:
    folder = tiny[f"{name}-3"]
    body = load(folder, with_head=True)
    assert body.loading["head"] == "used"
    assert body.classify is not None
    inputs = inputs_of(body, TEXT)
    with torch.inference_mode():
        logits = body.classify(body.model(**inputs))
        told = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()(**inputs).logits
    assert logits.shape == (1, 3)
    torch.testing.assert_close(logits, told, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pad", [None, 5])
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoders_head_reads_the_last_token_of_each_row(tmp_path: Path, name: str, pad: int | None) -> None:
    body = load(make_tiny(name, tmp_path / "c", labels=3, pad_token_id=pad), with_head=True)
    assert body.classify is not None
    texts = [TEXT, "a bad film and a very long plot"]
    alone = [inputs_of(body, text) for text in texts]
    longest = max(inputs["input_ids"].shape[1] for inputs in alone)
    ids = torch.full((2, longest), body.pad_id)
    mask = torch.zeros_like(ids)
    for row, inputs in enumerate(alone):
        length = inputs["input_ids"].shape[1]
        ids[row, :length], mask[row, :length] = inputs["input_ids"][0], 1
    with torch.inference_mode():
        together = body.classify(body.model(input_ids=ids, attention_mask=mask))
        one_by_one = torch.cat([body.classify(body.model(**inputs)) for inputs in alone])
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_labels": 1}, "does not choose"),
        ({"problem_type": "multi_label_classification"}, "does not choose"),
        ({"architectures": ["BertForMaskedLM"]}, "no classifier"),
    ],
)
def test_other_heads_are_not_asked(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    folder = make_tiny("bert", tmp_path / "c", labels=changes.get("num_labels", 3), seed=1)
    rewrite(folder, {key: value for key, value in changes.items() if key != "num_labels"})
    body = load(folder, with_head=True)
    assert reason in body.loading["head"]
    assert body.classify is None
    assert body.model is body.backbone


def test_a_head_whose_weights_are_gone_is_not_asked(tmp_path: Path) -> None:
    folder = make_tiny("roberta", tmp_path / "c", labels=3)
    change_tensors(folder, lambda tensors: tensors.pop("classifier.dense.weight"))
    body = load(folder, with_head=True)
    assert body.classify is None
    assert "classifier.dense.weight" in body.loading["head"]


def test_a_t5_classifier_gives_features_without_its_head(tiny: dict[str, Path]) -> None:
    body = load(tiny["t5-3"], with_head=True)
    assert body.classify is None
    assert "encoder" in body.loading["head"]


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize(
    "switch", [{"return_dict": False}, {"output_hidden_states": True}, {"output_attentions": True}]
)
def test_switches_of_the_configuration_change_nothing(
    tmp_path: Path, name: str, switch: dict[str, bool]
) -> None:
    folder = make_tiny(name, tmp_path / "c", labels=3)
    body = load(folder, with_head=True)
    inputs = inputs_of(body, TEXT)
    expected = seen(body, "last", inputs)
    rewrite(folder, switch)
    switched = load(folder, with_head=True)
    torch.testing.assert_close(seen(switched, "last", inputs), expected, rtol=0, atol=0)
    with torch.inference_mode():
        told = switched.model(**inputs)
        assert not {"hidden_states", "attentions"} & set(told)
        if body.classify is not None:
            torch.testing.assert_close(switched.classify(told), body.classify(body.model(**inputs)))


def test_the_norms_of_old_checkpoints_are_found_under_their_old_names(tmp_path: Path) -> None:
    folder = make_tiny("bert", tmp_path / "old")
    inputs = inputs_of(body := load(folder), TEXT)
    expected = seen(body, "last", inputs)

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "LayerNorm" in name]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
            tensors[old] = tensors.pop(name)

    change_tensors(folder, rename)
    torch.testing.assert_close(seen(load(folder), "last", inputs), expected, rtol=0, atol=0)


def test_bf16_is_what_was_asked_for(tiny: dict[str, Path]) -> None:
    body = load(tiny["qwen2"], torch.bfloat16)
    assert {parameter.dtype for parameter in body.model.parameters()} == {torch.bfloat16}
    inputs = inputs_of(body, TEXT)
    exact = seen(load(tiny["qwen2"]), "last", inputs)
    near = torch.nn.functional.cosine_similarity(seen(body, "last", inputs).float(), exact, dim=-1)
    assert near.min() > 0.999


def test_shards_are_read_together(tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path / "whole")
    inputs = inputs_of(body := load(folder), TEXT)
    expected = seen(body, "last", inputs)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for part, members in parts.items():
        save_file({name: tensors[name] for name in members}, folder / part)
    table = {name: part for part, members in parts.items() for name in members}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    torch.testing.assert_close(seen(load(folder), "last", inputs), expected, rtol=0, atol=0)


def test_pickles_are_read_where_they_are_allowed(tmp_path: Path) -> None:
    folder = make_tiny("bert", tmp_path / "pickled")
    inputs = inputs_of(body := load(folder), TEXT)
    expected = seen(body, "last", inputs)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    torch.testing.assert_close(seen(load(folder), "last", inputs), expected, rtol=0, atol=0)


def test_a_body_keeps_its_weights_when_the_file_changes(tmp_path: Path) -> None:
    folder = make_tiny("bert", tmp_path / "c")
    inputs = inputs_of(body := load(folder), TEXT)
    expected = seen(body, "last", inputs)
    size = (folder / "model.safetensors").stat().st_size
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(size - size // 2))
    torch.testing.assert_close(seen(body, "last", inputs), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_a_folder_needs_no_network(tiny: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *to, **_: asked.append(to) or [])
    monkeypatch.setattr(socket.socket, "connect", lambda _socket, to: asked.append(to))
    load(tiny[name], with_head=True)
    assert asked == []


def test_a_layer_that_is_not_there_is_not_applicable(tiny: dict[str, Path]) -> None:
    with pytest.raises(NotApplicable, match=r"no layer 4: of this bert 3 can be told apart"):
        tap(load(tiny["bert"]), "4", print)


def test_the_tokenizer_neither_cuts_nor_pads_by_itself(tmp_path: Path) -> None:
    folder = make_tiny("bert", tmp_path / "c")
    told = json.loads((folder / "tokenizer.json").read_text())
    told["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (folder / "tokenizer.json").write_text(json.dumps(told))
    encodings = load(folder).tokenizer.backend_tokenizer.encode_batch([TEXT, "bad"])
    assert [len(encoding.ids) for encoding in encodings] == [6, 3]


def test_equal_tokenizers_share_a_digest_and_others_do_not(tiny: dict[str, Path], tmp_path: Path) -> None:
    same = make_tiny("bert", tmp_path / "same", seed=5)
    assert load(same).tokenizer_digest == load(tiny["bert"]).tokenizer_digest
    assert load(tiny["bert"]).tokenizer_digest != load(tiny["mpnet"]).tokenizer_digest


def rewrite(folder: Path, changes: dict[str, Any], name: str = "config.json") -> None:
    told = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps(told))


def change_tensors(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
