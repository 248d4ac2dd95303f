"""Finetuned checkpoints as folders: what is loaded from one says what the run said."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file

from headstart.checkpoints.card import read_card
from headstart.entities import Checkpoint, Target
from headstart.failures import Interrupted
from tests.worker.test_finetune import SPEC, ignore, judge, made
from tests.worker.tiny_checkpoints import ARCHITECTURES, make_tiny, make_tokenizer
from worker import tuned
from worker.bodies import load_body
from worker.checkpoints import find_files
from worker.finetune import Part, schedule
from worker.forward import pool
from worker.keeping import Subject, keep, publish
from worker.kept_model import HEAD, Units, write_model
from worker.training_state import Stretch

if TYPE_CHECKING:
    from pathlib import Path

    from headstart.workbench import FinetuneSpec, Judge, Outputs
    from worker.checkpoints import CheckpointFiles
    from worker.tuned import Inputs

BASE = Checkpoint(
    id=3,
    family="org/base",
    name="org/base-one",
    revision="",
    is_vanilla=False,
    parameters=1234,
    license="mit",
)
TARGET = Target(
    id=1,
    name="films | tv",
    task="classification",
    metric="accuracy",
    train_size=160,
    classes=2,
    rows_tested=60,
    fingerprint="sha256:0",
)
SCORE = {
    "value": 0.75,
    "stderr": 0.025,
    "rows_tested": 60,
    "metric": "accuracy",
    "validation": 0.8,
    "seed": 0,
}
DRAFTED = ("family", "name", "revision", "is_vanilla", "parameters", "license", "details")
SHORT = replace(SPEC, epochs=2)
RATES = {"full": 2e-3, "lora": 2e-2, "bitfit": 2e-2, "head": 2e-2}


def kept(
    inputs: Inputs, spec: FinetuneSpec, root: Path, of: Judge = judge
) -> tuple[CheckpointFiles, Units, np.ndarray]:
    """The folder, what its configuration cannot say, and what the run says of the test rows."""
    units = []
    with tuned.trained(inputs, spec, of, ignore) as found:
        said = found.training.outputs(
            Part(tokens=found.seen(found.tokens["test"]), labels=np.zeros(0)), ignore
        )
        files = publish(root, "kept", lambda folder: units.append(write_model(found, folder)), lambda: None)
    return files, units[0], said.values


def loaded(folder: Path, inputs: Inputs) -> tuple[np.ndarray, object]:
    """What AutoModelForSequenceClassification and AutoTokenizer make of the test rows, and the model."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    texts = [text for batch, _ in inputs.rows.texts("test", 1000) for text in batch]
    found = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=32, return_tensors="pt")
        with torch.inference_mode():
            found.append(
                model(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]).logits[0].numpy()
            )
    return np.stack(found), model


def near(outputs: Outputs) -> float:
    return float(np.corrcoef(outputs.values[:, 0], outputs.labels)[0, 1])


def make_bart(folder: Path) -> Path:
    """A decoder beside an encoder that transformers does not build by itself."""
    tokenizer = make_tokenizer("roberta")
    tokenizer.save_pretrained(folder)
    half = {"layers": 2, "attention_heads": 4, "ffn_dim": 64}
    config = transformers.BartConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=None,
        **{f"{which}_{name}": size for which in ("encoder", "decoder") for name, size in half.items()},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.BartForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture
def inputs(tmp_path: Path, folder: Path) -> Inputs:
    return made(tmp_path, folder)


@pytest.mark.parametrize(
    ("architecture", "tuning"),
    [("bert", "full"), ("bert", "bitfit"), ("bert", "lora"), ("bert", "head"), ("gpt2", "lora")]
    + [(one, "full") for one in ARCHITECTURES if one not in {"bert", "t5"}],
)
def test_what_is_loaded_says_what_the_run_said(tmp_path: Path, architecture: str, tuning: str) -> None:
    inputs = made(tmp_path, make_tiny(architecture, tmp_path / "checkpoint"))
    spec = replace(SHORT, tuning=tuning, learning_rate=RATES[tuning], most_steps=6)
    files, units, said = kept(inputs, spec, tmp_path / "kept")
    found, model = loaded(files.folder, inputs)
    np.testing.assert_allclose(found, said, atol=1e-4, rtol=1e-4)
    assert model.config.id2label == {0: "bad", 1: "good"}
    assert units == Units()
    body = load_body(files, torch.device("cpu"), torch.float32, with_head=True)
    assert body.classify is not None
    before = load_body(inputs.files, torch.device("cpu"), torch.float32, with_head=False)
    assert body.tokenizer_digest == before.tokenizer_digest


def test_the_head_alone_leaves_the_body_as_it_was(inputs: Inputs, tmp_path: Path) -> None:
    files, _, _ = kept(inputs, replace(SHORT, tuning="head", learning_rate=1e-2), tmp_path / "kept")
    base = load_file(inputs.files.folder / "model.safetensors")
    written = load_file(files.folder / "model.safetensors")
    body = {name for name in written if name.startswith("bert.") and "pooler" not in name}
    assert body == {name for name in base if name.startswith("bert.")}
    assert all(torch.equal(written[name], base[name]) for name in body)
    raw, now = (json.loads((one.folder / "config.json").read_text()) for one in (inputs.files, files))
    told = {"architectures", "id2label", "label2id", "problem_type"}
    assert {key for key in raw.keys() | now.keys() if raw.get(key) != now.get(key)} == told


def test_rows_of_tokens_that_the_target_lacks_are_what_a_training_of_the_whole_table_leaves(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(SPEC, epochs=1, weight_decay=0.9, learning_rate=1e-2)
    files, _, _ = kept(inputs, spec, tmp_path / "kept")
    monkeypatch.setattr(tuned, "used_only", lambda *_: None)
    every, _, _ = kept(inputs, spec, tmp_path / "kept")
    table = "bert.embeddings.word_embeddings.weight"
    base = load_file(inputs.files.folder / "model.safetensors")[table]
    one, other = (load_file(each.folder / "model.safetensors")[table] for each in (files, every))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    lacking = load_body(files, torch.device("cpu"), torch.float32, with_head=False).tokenizer.vocab["z"]
    torch.testing.assert_close(one[lacking], other[lacking], atol=1e-6, rtol=1e-5)
    assert float((one[lacking] / base[lacking]).mean()) == pytest.approx(
        np.prod([1 - 1e-2 * 0.9 * schedule(step, 10, 0.1) for step in range(10)]), abs=1e-5
    )


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_half_a_model_is_kept_with_its_head_beside_it(tmp_path: Path, architecture: str) -> None:
    base = tmp_path / "checkpoint"
    inputs = made(tmp_path, make_tiny("t5", base) if architecture == "t5" else make_bart(base))
    files, _, said = kept(inputs, replace(SHORT, most_steps=6), tmp_path / "kept")
    body = load_body(files, torch.device("cpu"), torch.float32, with_head=True)
    assert body.classify is None
    head = load_file(files.folder / HEAD)
    texts = [text for batch, _ in inputs.rows.texts("test", 1000) for text in batch]
    found = []
    for text in texts:
        ids = body.tokenizer(text, truncation=True, max_length=32, return_tensors="pt")
        mask = ids["attention_mask"]
        with torch.inference_mode():
            hidden = body.backbone(input_ids=ids["input_ids"], attention_mask=mask)[0]
            found.append((pool(hidden, mask.bool(), "mean") @ head["weight"].T + head["bias"])[0].numpy())
    np.testing.assert_allclose(np.stack(found), said, atol=1e-4, rtol=1e-4)
    written = load_file(files.folder / "model.safetensors")
    assert any(name.startswith("decoder.") for name in written) == (architecture == "bart")


def test_a_regression_gives_values_in_the_unit_of_the_target(tmp_path: Path, folder: Path) -> None:
    inputs = made(tmp_path, folder, regression=True)
    files, units, said = kept(inputs, SHORT, tmp_path / "kept", near)
    found, model = loaded(files.folder, inputs)
    assert units == Units()
    np.testing.assert_allclose(found, said, atol=1e-4, rtol=1e-4)
    assert model.config.problem_type == "regression"


def test_where_the_head_cannot_hold_the_unit_it_is_told(tmp_path: Path) -> None:
    inputs = made(tmp_path, make_tiny("gpt2", tmp_path / "checkpoint"), regression=True)  # no bias
    files, units, said = kept(inputs, replace(SHORT, most_steps=6), tmp_path / "kept", near)
    found, _ = loaded(files.folder, inputs)
    assert units != Units()
    np.testing.assert_allclose(units.centre + units.scale * found, said, atol=1e-4, rtol=1e-4)


def test_a_draft_says_where_it_came_from_and_its_folder_is_found_by_it(
    inputs: Inputs, tmp_path: Path
) -> None:
    resumed = replace(inputs, stretch=Stretch())
    spec = replace(SHORT, learning_rate=None)
    first = tuned.finetune(resumed, spec, judge, ignore)
    stages: list[str] = []
    subject = Subject(
        name="me/kept", base=BASE, target=TARGET, card={"score": SCORE, "recipe": {"epochs": 2}}
    )
    root = tmp_path / "new" / "kept"
    draft = keep(resumed, spec, judge, lambda _, stage, *__: stages.append(stage), subject=subject, root=root)
    assert "training" not in stages  # the state of the finetune that has ended was loaded
    assert (draft.family, draft.name, draft.license, draft.is_vanilla) == (
        "org/base",
        "me/kept",
        "mit",
        False,
    )
    assert (draft.parameters, draft.details["base_model"]) == (1234, "org/base-one")
    assert draft.details["finetuned_on"] == "films | tv"
    checkpoint = Checkpoint(id=9, **{name: getattr(draft, name) for name in DRAFTED})
    files = find_files(checkpoint, roots=[root], cache=tmp_path, pickles=False, report=ignore)
    assert files.digest == draft.revision
    assert files.folder.name == f"me--kept-{draft.revision[7:19]}"
    found, _ = loaded(files.folder, inputs)
    np.testing.assert_allclose(found, first.test.values, atol=1e-4, rtol=1e-4)
    text = (files.folder / "README.md").read_text()
    assert read_card(text) == {
        "base_model": ["org/base-one"],
        "base_model_relation": ["finetune"],
        "license": ["mit"],
        "library_name": ["transformers"],
        "tags": ["headstart"],
    }
    assert r"films \| tv" in text
    assert "0.7500 ± 0.0250 (60 rows)" in text
    again = keep(resumed, spec, judge, ignore, subject=subject, root=root)
    assert (again.revision, again.details["path"]) == (draft.revision, draft.details["path"])
    assert [one.name for one in root.iterdir()] == [files.folder.name]


def test_all_files_are_readable_by_whom_the_first_is(inputs: Inputs, tmp_path: Path) -> None:
    files, _, _ = kept(inputs, replace(SHORT, tuning="head"), tmp_path / "kept")
    assert len({path.stat().st_mode for path in files.folder.iterdir()}) == 1


def fill(folder: Path) -> None:
    for name, text in (("config.json", "{}"), ("tokenizer.json", "{}"), ("model.safetensors", "weights")):
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), "No space left"),
        (SafetensorError("I/O error: No space left"), "I/O error"),
        (KeyboardInterrupt(), None),
    ],
)
def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path, error: BaseException, told: str | None
) -> None:
    def half(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise error

    with pytest.raises(Interrupted if told else type(error), match=told):
        publish(tmp_path / "kept", "name", half, lambda: None)
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_place_that_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file")
    with pytest.raises(Interrupted, match=r"could not be written to .*kept: File exists"):
        publish(tmp_path / "kept", "name", fill, lambda: None)


def test_a_folder_that_broke_is_replaced_and_one_that_died_is_swept(tmp_path: Path) -> None:
    first = publish(tmp_path, "name", fill, lambda: None)
    (first.folder / "config.json").write_text("{ }")
    old, new = tmp_path / ".making-old", tmp_path / ".making-new"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (0, 0))
    second = publish(tmp_path, "name", fill, lambda: None)
    assert second == first
    assert (second.folder / "config.json").read_text() == "{}"
    assert not old.exists()
    assert new.exists()  # of a process that is at it
