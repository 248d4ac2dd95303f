"""Architectures that are not built like BERT: right features, or a sentence; never wrong ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers

from headstart.failures import NotApplicable
from headstart.workbench import FeatureSpec
from tests.worker.small_rows import ignore, make_rows, make_texts
from tests.worker.tiny_checkpoints import _draw_weights, make_tiny, make_tokenizer
from worker import features, forward
from worker.bodies import load_body
from worker.cache import Cache
from worker.checkpoints import CheckpointFiles, read_folder
from worker.classifier import new_classifier
from worker.device import pick_device
from worker.features import FrozenFeatures, open_features

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PLAIN = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}
# architecture: its config class, what it is set to, the class saved, the tokenizer
_KINDS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "albert": ("AlbertConfig", {**_PLAIN, "embedding_size": 16}, "AlbertForMaskedLM", "bert"),
    "squeezebert": ("SqueezeBertConfig", {**_PLAIN, "embedding_size": 32}, "SqueezeBertForMaskedLM", "bert"),
    "flaubert": (
        "FlaubertConfig",
        {"emb_dim": 32, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 128},
        "FlaubertWithLMHeadModel",
        "bert",
    ),
    "longformer": (
        "LongformerConfig",
        {**_PLAIN, "attention_window": 8, "max_position_embeddings": 130},
        "LongformerForMaskedLM",
        "roberta",
    ),
    "xlnet": (
        "XLNetConfig",
        {"d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 64},
        "XLNetLMHeadModel",
        "bert",
    ),
    "opt": (
        "OPTConfig",
        {
            **{key: value for key, value in _PLAIN.items() if key != "intermediate_size"},
            "ffn_dim": 64,
            "word_embed_proj_dim": 16,
        },
        "OPTForCausalLM",
        "gpt2",
    ),
    "funnel": (
        "FunnelConfig",
        {"d_model": 32, "block_sizes": [1, 1, 1], "n_head": 4, "d_head": 8, "d_inner": 64},
        "FunnelForMaskedLM",
        "bert",
    ),
    "convbert": ("ConvBertConfig", {**_PLAIN, "embedding_size": 32}, "ConvBertForMaskedLM", "bert"),
    "mobilebert": (
        "MobileBertConfig",
        {**_PLAIN, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
        "MobileBertForMaskedLM",
        "bert",
    ),
    "mamba": (
        "MambaConfig",
        {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 4},
        "MambaForCausalLM",
        "gpt2",
    ),
    "nystromformer": (
        "NystromformerConfig",
        {**_PLAIN, "segment_means_seq_len": 64, "num_landmarks": 8},
        "NystromformerForMaskedLM",
        "bert",
    ),
}
BLENDED = ("albert", "squeezebert", "flaubert", "longformer", "xlnet", "opt", "funnel")  # layers not apart
LEAKY = ("convbert", "mobilebert", "funnel")  # padding reaches into the text


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread too: more of them wait for each other after every tiny product."""
    monkeypatch.setattr(features, "BUDGETS", {"cpu": 200, "cuda": 200})
    monkeypatch.setattr(features, "SHELF", features.Shelf())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def odd(tmp_path: Path, architecture: str) -> CheckpointFiles:
    config_class, config, saved_class, kind = _KINDS[architecture]
    tokenizer = make_tokenizer(kind)
    tokenizer.save_pretrained(folder := tmp_path / architecture)
    made = getattr(transformers, config_class)(
        **{**config, "vocab_size": len(tokenizer)},
        **{"pad_token_id": tokenizer.pad_token_id or 0, "bos_token_id": 0, "eos_token_id": 0},
    )
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, saved_class)(made)
    _draw_weights(model, 0)
    model.save_pretrained(folder)
    return read_folder(folder, roots=[tmp_path], pickles=False)


def opened(tmp_path: Path, files: CheckpointFiles, texts: list[str], *layers: str) -> FrozenFeatures:
    return open_features(
        files=files,
        rows=make_rows(tmp_path / "rows", {"train": texts}),
        spec=FeatureSpec(layers=layers, precision="fp32", pooling="mean"),
        cache=Cache(tmp_path / "cache", 1 << 30),
        report=ignore,
    )


def alone(files: CheckpointFiles, text: str) -> list[np.ndarray]:
    """Means over the tokens of one text in transformers' own way: all hidden states, then the last."""
    body = load_body(files, pick_device(), torch.float32, with_head=False)
    given = body.tokenizer(text, return_tensors="pt").to(pick_device())
    given.pop("token_type_ids", None)
    with torch.inference_mode():
        output = body.backbone(**given, output_hidden_states=True)
    return [state[0].mean(0).cpu().numpy() for state in (*output.hidden_states, output[0])]


@pytest.mark.parametrize("architecture", [name for name in _KINDS if name != "nystromformer"])
def test_a_batched_text_gives_what_it_gives_alone(tmp_path: Path, architecture: str) -> None:
    files = odd(tmp_path, architecture)
    texts = [f"the film was {text}" for text in make_texts(15, longest=6)]  # Funnel fails on three tokens
    found = opened(tmp_path, files, texts, "last")
    x = found.rows("train").array("last")
    for text, row in zip(texts, x, strict=True):
        np.testing.assert_allclose(row, alone(files, text)[-1], rtol=1e-4, atol=1e-5)
    leaky = architecture in LEAKY
    assert found.facts["padded"] is not leaky
    assert (found.facts["padded_tokens"] == found.facts["tokens"]) is leaky
    assert found.dimension == found.facts["dimension"] == x.shape[1] == (16 if architecture == "opt" else 32)


@pytest.mark.parametrize("architecture", BLENDED)
@pytest.mark.parametrize("layer", ["mean", "1", "0"])
def test_layers_that_cannot_be_told_apart_do_not_apply(tmp_path: Path, architecture: str, layer: str) -> None:
    files = odd(tmp_path, architecture)
    with pytest.raises(NotApplicable, match=f"no layer {layer}: those of this .* cannot be told apart"):
        opened(tmp_path, files, ["the film was good"], layer).rows("train")


@pytest.mark.parametrize("architecture", ["convbert", "mobilebert"])
def test_layers_that_can_are_those_of_transformers(tmp_path: Path, architecture: str) -> None:
    files = odd(tmp_path, architecture)
    texts = ["the film was good", "bad", "a very long plot and not a good film"]
    found = opened(tmp_path, files, texts, "mean", "0", "2").rows("train")
    for row, text in enumerate(texts):
        states = alone(files, text)[:-1]
        expected = {"mean": np.mean(states[1:], axis=0), "0": states[0], "2": states[2]}
        for layer, value in expected.items():
            np.testing.assert_allclose(found.array(layer)[row], value, rtol=1e-4, atol=1e-5)


def test_a_body_that_fails_on_short_texts_does_not_apply(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="forward pass of this nystromformer fails on texts of 7 tokens"):
        opened(tmp_path, odd(tmp_path, "nystromformer"), ["the film was good"], "last")


def test_a_body_that_fails_on_the_rows_does_not_apply(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="forward pass of this funnel fails on texts of 3 tokens"):
        opened(tmp_path, odd(tmp_path, "funnel"), ["good"], "last").rows("train")


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        (lambda _hidden: [], "do not run once each"),
        (lambda hidden: [hidden, hidden], "do not run once each"),
        (lambda hidden: [hidden.transpose(0, 1)], r"gives the shape \(6, 1, 32\) where \(1, 6, 32\)"),
        (lambda hidden: [hidden[..., :16]], r"gives the shape \(1, 6, 16\) where \(1, 6, 32\)"),
    ],
)
def test_a_layer_that_does_not_give_one_hidden_state_is_no_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: Any, told: str
) -> None:
    folder = make_tiny("bert", tmp_path / "bert")
    files = read_folder(folder, roots=[tmp_path], pickles=False)
    found = opened(tmp_path, files, ["the film was good"], "1")
    tap = forward.tap

    def tapped(body: Any, layer: str, see: Any) -> Any:
        return tap(body, layer, lambda hidden: [see(given) for given in shown(hidden)] and None)

    monkeypatch.setattr(forward, "tap", tapped)
    with pytest.raises(NotApplicable, match=told):
        found.rows("train")
    assert not list((tmp_path / "cache").glob("features/*/*.f32"))


def test_an_encoder_saved_by_itself_is_read_as_one(tmp_path: Path) -> None:
    whole = make_tiny("t5", tmp_path / "t5")
    encoder = transformers.T5EncoderModel.from_pretrained(whole)
    encoder.config.is_encoder_decoder = False
    encoder.save_pretrained(tmp_path / "half")
    make_tokenizer("t5").save_pretrained(tmp_path / "half")
    x, y = (
        opened(tmp_path, read_folder(folder, roots=[tmp_path], pickles=False), ["the film was good"], "mean")
        .rows("train")
        .array("mean")
        for folder in (whole, tmp_path / "half")
    )
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("architecture", ["xlnet", "flaubert", "funnel", "opt"])
def test_a_classifier_says_of_a_padded_text_what_it_says_of_it_alone(
    tmp_path: Path, architecture: str
) -> None:
    body = load_body(odd(tmp_path, architecture), torch.device("cpu"), torch.float32, with_head=False)
    model = new_classifier(body, 3, "full", lora_rank=2, seed=0).body.model.eval()
    short, long = torch.arange(5, 12), torch.arange(5, 17)
    both, mask = long.repeat(2, 1), torch.ones(2, 12, dtype=torch.long)
    both[0, :7], both[0, 7:], mask[0, 7:] = short, body.pad_id, 0
    with torch.inference_mode():
        alone = model(input_ids=short[None], attention_mask=mask[1:, :7]).logits
        beside = model(input_ids=both, attention_mask=mask).logits
    if body.padded:  # else nothing is ever padded
        torch.testing.assert_close(beside[:1], alone, rtol=1e-4, atol=1e-5)
