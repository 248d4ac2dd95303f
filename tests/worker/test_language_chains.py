"""Chains of language models' losses: what is asked of the rows, and which head answers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import transformers

from headstart.failures import NotApplicable
from headstart.workbench import ChainSpec
from tests.worker.small_rows import make_rows, make_texts
from tests.worker.test_finetune import ignore, sentiment
from tests.worker.tiny_checkpoints import ARCHITECTURES, DECODERS, make_tiny
from worker import loss_chains
from worker.bodies import load_body
from worker.cache import Cache
from worker.chain_subject import subject
from worker.checkpoints import read_folder
from worker.language_heads import ask, own_head
from worker.loss_chains import loss_chains as run
from worker.tokens import open_tokens
from worker.tuned import Inputs

if TYPE_CHECKING:
    from pathlib import Path

    from worker.bodies import Body
    from worker.language_heads import Asked

ROWS = 24
SPEC = ChainSpec(
    objective="masked-lm",
    most_rows=ROWS,
    max_tokens=32,
    step=1e-6,
    scheme="euler",
    chains=1,
    draws=2,
    burn_in=1,
    batch_rows=8,
    trace_probes=1,
    seed=4,
)
CAUSAL = replace(SPEC, objective="causal-lm")


def inputs_of(tmp_path: Path, folder: Path, texts: list[str] | None = None) -> Inputs:
    (tmp_path / "job").mkdir(exist_ok=True)
    return Inputs(
        files=read_folder(folder, roots=[folder], pickles=False),
        rows=make_rows(tmp_path / "rows.parquet", {"train": texts or make_texts(ROWS, longest=15)}),
        cache=Cache(tmp_path / "cache", 1 << 24),
        folder=tmp_path / "job",
    )


def asked_of(inputs: Inputs, spec: ChainSpec = SPEC) -> tuple[Body, Asked]:
    body = load_body(inputs.files, torch.device("cpu"), torch.float32, with_head=False)
    tokens = open_tokens(
        body.tokenizer,
        body.tokenizer_digest,
        inputs.rows,
        "train",
        most_rows=spec.most_rows,
        max_tokens=spec.max_tokens,
        cache=inputs.cache,
        report=ignore,
    )
    return body, ask(body, tokens, spec.objective, spec.mask_share, spec.seed)


def whole_model_losses(inputs: Inputs, folder: Path, spec: ChainSpec) -> np.ndarray:
    """By transformers' own model, row after row."""
    _, asked = asked_of(inputs, spec)
    kind = "AutoModelForMaskedLM" if spec.objective == "masked-lm" else "AutoModelForCausalLM"
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    found = []
    for row, (places, wanted) in enumerate(zip(asked.places, asked.wanted, strict=True)):
        ids = torch.from_numpy(asked.ids(row).astype(np.int64))[None]
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
        at = places if spec.objective == "masked-lm" else places - 1
        losses = torch.nn.functional.cross_entropy(logits[at], torch.from_numpy(wanted), reduction="none")
        found.append(float(losses.mean()))
    return np.array(found)


@pytest.mark.parametrize("architecture", [one for one in ARCHITECTURES if one != "t5"])
def test_the_own_head_says_what_the_whole_model_says(tmp_path: Path, architecture: str) -> None:
    folder = make_tiny(architecture, tmp_path / "checkpoint")
    inputs = inputs_of(tmp_path, folder)
    spec = CAUSAL if architecture in DECODERS else SPEC
    found = run(inputs, spec, ignore)
    np.testing.assert_allclose(found.centre, whole_model_losses(inputs, folder, spec), atol=2e-5)
    assert found.facts["head"]["kind"] == "own"
    assert np.isfinite([*found.excess[0], *found.trace, found.slope]).all()


@pytest.mark.parametrize(("architecture", "spec"), [("bert", SPEC), ("gpt2", CAUSAL)])
def test_a_decoder_that_is_tied_stays_while_the_embeddings_move(
    tmp_path: Path, architecture: str, spec: ChainSpec
) -> None:
    inputs = inputs_of(
        tmp_path, make_tiny(architecture, tmp_path / "checkpoint"), ["the film", "zebra plot"] * 4
    )
    with subject(inputs, spec, ignore) as found:
        embeddings = next(name for name in found.centre if "word_embeddings" in name or "wte" in name)
        moved = dict(found.centre)
        seen = np.unique(found.loss.tokens.ids(0))
        others = np.setdiff1d(np.arange(len(moved[embeddings])), seen)
        moved[embeddings] = moved[embeddings].clone()
        way = torch.randn(moved[embeddings].shape, generator=torch.Generator().manual_seed(0))
        moved[embeddings][others] += way[others]
        row = torch.tensor([0])
        assert float(found.loss(moved, row)) == pytest.approx(float(found.loss(found.centre, row)), rel=1e-6)
        moved[embeddings][seen] += way[seen]
        assert float(found.loss(moved, row)) != pytest.approx(float(found.loss(found.centre, row)), rel=1e-3)
        assert not any("decoder" in name or "cls" in name or "lm_head" in name for name in found.centre)


def test_a_checkpoint_without_a_head_gets_one_that_is_fitted_and_frozen(tmp_path: Path) -> None:
    folder = make_tiny("bert", tmp_path / "checkpoint", labels=2)
    inputs = inputs_of(tmp_path, folder)
    found = run(inputs, SPEC, ignore)
    head = found.facts["head"]
    body, asked = asked_of(inputs)
    known = np.unique(np.concatenate(asked.wanted))
    assert (head["kind"], head["outputs"], head["moves"]) == ("fitted", len(known), False)
    assert head["converged"]
    assert "not there" in head["why"]
    assert head["tokens_predicted"] == sum(map(len, asked.wanted))
    shares = np.bincount(np.searchsorted(known, np.concatenate(asked.wanted))) / head["tokens_predicted"]
    guess = -(shares * np.log(shares)).sum()
    assert 0 < found.centre.mean() < 0.9 * guess  # better than the tokens' frequencies
    assert found.dimension < sum(p.numel() for p in body.backbone.parameters())
    whole = run(inputs, SPEC, ignore)
    np.testing.assert_array_equal(whole.excess, found.excess)


def test_masks_are_of_the_seed_and_of_words_alone(tmp_path: Path) -> None:
    texts = ["the film was good and the plot was not bad at all", "zebra", "a long long long film"] * 3
    inputs = inputs_of(tmp_path, make_tiny("bert", tmp_path / "checkpoint"), texts)
    body, asked = asked_of(inputs, replace(SPEC, mask_share=0.3))
    special = set(body.tokenizer.all_special_ids)
    for row in range(len(texts)):
        ids, plain = asked.ids(row), asked.tokens.ids(row)
        words = sum(token not in special for token in plain.tolist())
        assert len(asked.places[row]) == max(1, round(0.3 * words))
        assert np.all(ids[asked.places[row]] == body.tokenizer.mask_token_id)
        assert not special & set(asked.wanted[row].tolist())
        np.testing.assert_array_equal(plain[asked.places[row]], asked.wanted[row])
        np.testing.assert_array_equal(np.delete(ids, asked.places[row]), np.delete(plain, asked.places[row]))
    _, again = asked_of(inputs, replace(SPEC, mask_share=0.3))
    assert all(np.array_equal(a, b) for a, b in zip(again.places, asked.places, strict=True))
    _, other = asked_of(inputs, replace(SPEC, mask_share=0.3, seed=5))
    assert not all(np.array_equal(a, b) for a, b in zip(other.places, asked.places, strict=True))


def test_rows_without_a_word_are_left_out(tmp_path: Path) -> None:
    texts = ["the film", "", "was good", "", "bad plot"]
    inputs = inputs_of(tmp_path, make_tiny("bert", tmp_path / "checkpoint"), texts)
    found = run(inputs, SPEC, ignore)
    assert len(found.centre) == 3
    assert found.facts["rows_without_tokens_to_predict"] == 2
    (tmp_path / "rows.parquet").unlink()
    with pytest.raises(NotApplicable, match="has a token to predict"):
        run(inputs_of(tmp_path, inputs.files.folder, ["", ""]), SPEC, ignore)


def test_what_an_objective_does_not_apply_to_is_told(tmp_path: Path) -> None:
    bert = inputs_of(tmp_path, make_tiny("bert", tmp_path / "bert"))
    with pytest.raises(NotApplicable, match="sees the tokens that come after") as told:
        run(bert, CAUSAL, ignore)
    assert "masked-lm" in told.value.remedy
    decoder = inputs_of(tmp_path, make_tiny("llama", tmp_path / "llama"))
    with pytest.raises(NotApplicable, match="reads from left to right") as told:
        run(decoder, SPEC, ignore)
    assert "causal-lm" in told.value.remedy
    with pytest.raises(NotApplicable, match="mask token"):
        run(inputs_of(tmp_path, make_tiny("t5", tmp_path / "t5")), SPEC, ignore)
    with pytest.raises(NotApplicable, match="stays frozen"):
        run(bert, replace(SPEC, moves_head=True), ignore)
    headless = inputs_of(tmp_path, make_tiny("llama", tmp_path / "classifier", labels=2))
    with pytest.raises(NotApplicable, match="no head for causal-lm: its weights are not there"):
        run(headless, CAUSAL, ignore)


def test_an_encoder_whose_tokenizer_lost_its_mask_token_is_refused(tmp_path: Path) -> None:
    folder = make_tiny("bert", tmp_path / "bert")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        if path.exists():
            told = json.loads(path.read_text())
            told.pop("mask_token", None)
            path.write_text(json.dumps(told))
    with pytest.raises(NotApplicable, match="mask token"):
        run(inputs_of(tmp_path, folder), SPEC, ignore)


def test_a_head_that_reads_more_than_hidden_states_is_no_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says by itself is compared with what the whole model says."""
    inputs = inputs_of(tmp_path, make_tiny("bert", tmp_path / "bert"))
    body, _ = asked_of(inputs)
    whole = transformers.BertForMaskedLM.forward

    def shifted(self: object, **given: torch.Tensor) -> object:
        found = whole(self, **given)
        found.logits = found.logits + given["input_ids"][..., None]
        return found

    monkeypatch.setattr(transformers.BertForMaskedLM, "forward", shifted)
    head, why = own_head(inputs.files, body, "masked-lm")
    assert head is None
    assert "reads more" in why


def test_a_regression_has_texts_to_read(tmp_path: Path) -> None:
    inputs = inputs_of(tmp_path, make_tiny("bert", tmp_path / "bert"))
    rows = sentiment(tmp_path / "v.parquet", {"train": 9, "validation": 3, "test": 3}, regression=True)
    found = run(replace(inputs, rows=rows), SPEC, ignore)
    assert found.centre.shape == (9,)


@pytest.mark.parametrize("labels", [0, 2])
def test_a_killed_run_gives_what_it_would_have_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: int
) -> None:
    """With the own head and with one that is fitted again."""
    inputs = inputs_of(tmp_path, make_tiny("bert", tmp_path / "bert", labels=labels))
    whole = run(inputs, SPEC, ignore)
    inputs = replace(inputs, save_seconds=0.0)
    monkeypatch.setattr(loss_chains, "SAVE_SHARE", 1e9)

    def kill(_fraction: float, _stage: str, message: str, _left: float | None) -> None:
        if message.startswith("step 2 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(inputs, SPEC, kill)
    resumed = run(inputs, SPEC, ignore)
    assert resumed.facts["resumed_at_step"] == 2
    for name in ("excess", "distance", "centre", "trace"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
