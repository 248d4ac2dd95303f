"""Finetuning tiny checkpoints: what is trained, what it comes to, and that nothing is lost in between."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
import torch

from headstart.failures import NonFinite, NotApplicable, OutOfMemory
from headstart.metrics import accuracy, predictions
from headstart.rows import RowsFile, RowsHead, write_rows
from headstart.workbench import FinetuneSpec
from tests.worker.tiny_checkpoints import ARCHITECTURES, make_tiny
from worker import finetune as loop
from worker.batches import steps_of
from worker.bodies import load_body
from worker.cache import Cache
from worker.checkpoints import read_folder
from worker.classifier import new_classifier
from worker.finetune import Progress, Training, schedule
from worker.tuned import Inputs, finetune

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from headstart.workbench import Finetuned, Outputs

SPEC = FinetuneSpec(epochs=4, batch_rows=16, learning_rate=2e-3, precision="fp32", max_tokens=32, warmup=0.1)
GOOD, BAD, OTHER = ("good", "long"), ("bad", "quiet"), ("the", "film", "was", "a", "plot", "and", "not")


def sentiment(path: Path, sizes: dict[str, int], *, regression: bool = False, seed: int = 0) -> RowsFile:
    """Texts of a few words; the label is which of the telling words they have, or how many."""
    rng = np.random.default_rng(seed)
    table: dict[str, list] = {"role": [], "text": [], "label": []}
    for role, count in sizes.items():
        for _ in range(count):
            label = int(rng.integers(2))
            words = list(rng.choice(OTHER, rng.integers(2, 20)))
            tell = int(rng.integers(1, 4))
            words += list(rng.choice(GOOD if label else BAD, tell))
            table["role"].append(role)
            table["text"].append(" ".join(rng.permutation(words)))
            table["label"].append(float(tell * (2 * label - 1)) if regression else ("bad", "good")[label])
    head = RowsHead(
        fingerprint=hashlib.sha256(str(table).encode()).hexdigest(),
        task="regression" if regression else "classification",
        pair=False,
        classes=None if regression else ("bad", "good"),
        sizes=dict(sizes),
    )
    write_rows(path, pa.table(table), head)
    return RowsFile(path)


def judge(outputs: Outputs) -> float:
    return accuracy(predictions(outputs.values, classes=True), outputs.labels)


def ignore(*_: object) -> None:
    """A report that nobody reads."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture
def inputs(tmp_path: Path, folder: Path) -> Inputs:
    return made(tmp_path, folder)


def made(tmp_path: Path, folder: Path, *, regression: bool = False) -> Inputs:
    rows = sentiment(
        tmp_path / "rows.parquet", {"train": 160, "validation": 60, "test": 60}, regression=regression
    )
    (tmp_path / "job").mkdir(exist_ok=True)
    return Inputs(
        files=read_folder(folder, roots=[folder], pickles=False),
        rows=rows,
        cache=Cache(tmp_path / "cache", 1 << 24),
        folder=tmp_path / "job",
    )


def same(one: Finetuned, other: Finetuned) -> bool:
    return np.array_equal(one.test.values, other.test.values) and [
        {k: v for k, v in point.items() if k != "seconds"} for point in one.curve
    ] == [{k: v for k, v in point.items() if k != "seconds"} for point in other.curve]


def test_it_learns_and_the_same_seed_gives_the_same_bits(inputs: Inputs) -> None:
    first, again = (finetune(inputs, SPEC, judge, ignore) for _ in range(2))
    assert judge(first.test) > 0.9
    assert same(first, again)
    other = finetune(inputs, replace(SPEC, seed=1), judge, ignore)
    assert not np.array_equal(other.test.values, first.test.values)
    assert first.curve[-1]["validation"] == pytest.approx(judge(first.validation), abs=0.2)
    assert first.facts["steps"] == len(first.curve) * 10
    assert first.classes == ("bad", "good")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_every_architecture_learns(tmp_path: Path, architecture: str, tuning: str) -> None:
    inputs = made(tmp_path, make_tiny(architecture, tmp_path / "checkpoint"))
    rate = 2e-3 if tuning == "full" else 2e-2
    found = finetune(inputs, replace(SPEC, tuning=tuning, learning_rate=rate, epochs=8), judge, ignore)
    assert judge(found.test) > 0.75


@pytest.mark.parametrize("stop_after", [1, 7, 23])
def test_a_killed_run_gives_what_it_would_have_given(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    whole = finetune(inputs, SPEC, judge, ignore)
    inputs = replace(inputs, save_seconds=0.0)
    monkeypatch.setattr(loop, "SAVE_SHARE", 1e9)
    finished = [stop_after]

    def kill(_fraction: float, stage: str, *_: object) -> None:
        if stage == "training":
            finished[0] -= 1
            if finished[0] < 0:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(inputs, SPEC, judge, kill)
    assert list(inputs.folder.glob("training-*.pt"))
    steps: list[str] = []
    resumed = finetune(inputs, SPEC, judge, lambda _f, stage, message, _s: steps.append(f"{stage} {message}"))
    assert same(resumed, whole)
    trained = [step for step in steps if step.startswith("training")]
    assert trained[0].startswith(f"training step {stop_after} of 40")


def test_a_state_of_another_training_or_a_broken_one_is_not_gone_on_from(inputs: Inputs) -> None:
    inputs = replace(inputs, save_seconds=0.0)
    whole = finetune(inputs, SPEC, judge, ignore)
    (state,) = inputs.folder.glob("training-*.pt")
    state.write_bytes(state.read_bytes()[:1000])
    assert same(finetune(inputs, SPEC, judge, ignore), whole)
    other = finetune(inputs, replace(SPEC, seed=5), judge, ignore)
    assert not same(other, whole)
    assert len(list(inputs.folder.glob("training-*.pt"))) == 2


def test_the_rows_of_a_step_fit_into_memory_in_parts_without_changing_what_is_learnt(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = replace(SPEC, epochs=1)
    monkeypatch.setattr(loop, "BUDGETS", {"cpu": 100_000})
    calm = without_dropout(inputs)
    whole = finetune(calm, still, judge, ignore)
    monkeypatch.setattr(loop, "BUDGETS", {"cpu": 64})
    parts = finetune(calm, still, judge, ignore)
    np.testing.assert_allclose(parts.test.values, whole.test.values, atol=2e-3)
    assert parts.facts["padded_tokens"] < whole.facts["padded_tokens"]
    assert parts.facts["tokens"] == whole.facts["tokens"]


def without_dropout(inputs: Inputs) -> Inputs:
    folder = make_tiny(
        "bert", inputs.folder.parent / "calm", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    return replace(inputs, files=read_folder(folder, roots=[folder], pickles=False))


def test_memory_that_runs_out_halves_the_micro_batch_and_says_so(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, still = without_dropout(inputs), replace(SPEC, epochs=1)
    whole = finetune(calm, still, judge, ignore)
    scarce(monkeypatch, 200)
    found = finetune(calm, still, judge, ignore)
    np.testing.assert_allclose(found.test.values, whole.test.values, atol=2e-3)
    assert found.facts["out_of_memory_retries"] == 4  # 2048 -> 128
    assert found.facts["batch_tokens"] == 128
    scarce(monkeypatch, 4)
    with pytest.raises(OutOfMemory, match="One text of"):
        finetune(calm, still, judge, ignore)


def scarce(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    """Training batches of more tokens run out of memory."""
    whole: Callable[..., dict[str, torch.Tensor]] = loop.collate

    def collate(body: object, of: object, rows: np.ndarray) -> dict[str, torch.Tensor]:
        made = whole(body, of, rows)
        if torch.is_grad_enabled() and made["input_ids"].numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return made

    monkeypatch.setattr(loop, "collate", collate)


def test_only_the_embeddings_of_tokens_in_the_rows_are_trained_and_nothing_else_changes(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = finetune(inputs, SPEC, judge, ignore)
    monkeypatch.setattr("worker.vocabulary.WORTH", 0.0)
    whole = finetune(inputs, SPEC, judge, ignore)
    assert smaller.facts["trained_parameters"] < whole.facts["trained_parameters"]
    np.testing.assert_allclose(smaller.test.values, whole.test.values, atol=1e-4)


def test_training_ends_when_the_validation_rows_gain_no_more(inputs: Inputs) -> None:
    found = finetune(inputs, replace(SPEC, epochs=50, patience=2), judge, ignore)
    gains = [point["validation"] for point in found.curve]
    assert found.facts["ended"] == "patience"
    assert len(gains) < 50
    assert judge(found.validation) == pytest.approx(max(gains))  # the best step's weights, not the last one's
    best, last_gain = float("-inf"), 0
    for number, gain in enumerate(gains):
        if gain > best + 0.001:
            best, last_gain = gain, number
    assert len(gains) - 1 - last_gain == 2


def test_the_labels_of_the_test_rows_choose_nothing(inputs: Inputs, tmp_path: Path) -> None:
    found = finetune(inputs, SPEC, judge, ignore)
    whole = inputs.rows

    class Scrambled(RowsFile):
        def labels(self, role: str, most: int) -> np.ndarray:
            labels = super().labels(role, most)
            return 1 - labels if role == "test" else labels

    scrambled = Scrambled(tmp_path / "rows.parquet")
    assert scrambled.head == whole.head
    other = finetune(replace(inputs, rows=scrambled), SPEC, judge, ignore)
    assert same(other, found)
    assert judge(other.test) == pytest.approx(1 - judge(found.test))


def test_a_regression_learns_values(tmp_path: Path, folder: Path) -> None:
    def near(outputs: Outputs) -> float:
        return float(np.corrcoef(outputs.values[:, 0], outputs.labels)[0, 1])

    found = finetune(made(tmp_path, folder, regression=True), replace(SPEC, epochs=8), near, ignore)
    assert near(found.test) > 0.8
    assert found.classes is None
    assert np.abs(found.test.values[:, 0] - found.test.labels).mean() < 1.0  # in the labels' own unit


def test_a_loss_that_is_no_number_is_told_with_step_and_rate(inputs: Inputs) -> None:
    with pytest.raises(NonFinite, match=r"step \d+ of 40, at a learning rate of"):
        finetune(inputs, replace(SPEC, learning_rate=1e30, most_gradient=1e9), judge, ignore)


def test_train_rows_of_one_class_are_refused(inputs: Inputs) -> None:
    with pytest.raises(NotApplicable, match="same label"):
        finetune(inputs, replace(SPEC, max_train_rows=1), judge, ignore)


def test_a_class_that_the_train_rows_do_not_have_is_told(inputs: Inputs) -> None:
    found = finetune(three_classes(inputs), replace(SPEC, epochs=1), judge, ignore)
    assert found.classes == ("absent", "bad", "good")
    assert found.facts["classes_without_train_rows"] == ["absent"]


def three_classes(inputs: Inputs) -> Inputs:
    class Wider(RowsFile):
        def labels(self, role: str, most: int) -> np.ndarray:
            return super().labels(role, most) + 1

    rows = Wider(inputs.folder.parent / "rows.parquet")
    rows.head = replace(rows.head, classes=("absent", "bad", "good"))
    rows.labels = lambda role, most: RowsFile.labels(inputs.rows, role, most) + 1
    return replace(inputs, rows=rows)


@pytest.mark.parametrize("evaluations", [1, 2, 7, 10, 100])
def test_there_are_as_many_evaluations_in_an_epoch_as_asked(evaluations: int) -> None:
    for steps in range(1, 400):
        training = SimpleNamespace(
            at=Progress(step=1), steps=10**6, spec=replace(SPEC, evaluations=evaluations)
        )
        due = 0
        for training.at.step_in_epoch in range(1, steps + 1):
            due += Training._due(training, steps)
        assert due == min(evaluations, steps)


def test_a_step_has_the_rows_asked_for_at_most_and_no_two_epochs_are_alike() -> None:
    for count, batch in ((160, 110), (10, 16), (33, 16), (1000, 1)):
        steps = steps_of(count, batch, 0, 0)
        assert max(map(len, steps)) <= batch or count < batch
        assert max(map(len, steps)) - min(map(len, steps)) <= 1
        assert sorted(np.concatenate(steps)) == list(range(count))
    assert not np.array_equal(np.concatenate(steps_of(50, 8, 0, 0)), np.concatenate(steps_of(50, 8, 0, 1)))


def test_the_weights_are_those_of_a_plain_loop(inputs: Inputs) -> None:
    calm = without_dropout(inputs)
    spec = replace(SPEC, epochs=1, most_steps=3, weight_decay=0.5, most_gradient=0.02, learning_rate=1e-2)
    found = finetune(calm, spec, judge, ignore)
    body = load_body(calm.files, torch.device("cpu"), torch.float32, with_head=False)
    model = new_classifier(body, 2, "full", lora_rank=8, seed=0).body.model
    assert found.facts["trained_parameters"] < sum(p.numel() for p in model.parameters())
    decays = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim == 1]
    optimiser = torch.optim.AdamW(
        [{"params": decays, "weight_decay": 0.5}, {"params": plain, "weight_decay": 0.0}]
    )
    texts = [text for batch, _ in calm.rows.texts("train", 1000) for text in batch]
    labels = torch.from_numpy(calm.rows.labels("train", 1000))
    norms = []
    model.train()
    for step, rows in enumerate(steps_of(160, 16, 0, 0)[:3]):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * schedule(step, 3, 0.1)
        batch = body.tokenizer([texts[row] for row in rows], padding=True, return_tensors="pt")
        optimiser.zero_grad()
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        torch.nn.functional.cross_entropy(logits, labels[rows]).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.02)))
        optimiser.step()
    assert min(norms) > 0.02
    model.eval()
    said = [text for batch, _ in calm.rows.texts("test", 1000) for text in batch]
    batch = body.tokenizer(said, padding=True, return_tensors="pt")
    with torch.inference_mode():
        wanted = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.numpy()
    np.testing.assert_allclose(found.test.values, wanted, atol=2e-4)


def test_a_padding_of_the_table_beyond_that_of_the_tokenizer_keeps_its_place(tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path / "checkpoint", pad_token_id=200)
    inputs = made(tmp_path, folder)
    assert finetune(inputs, replace(SPEC, most_steps=2), judge, ignore).facts["steps"] == 2


def test_large_values_are_learnt_as_well_as_small_ones(tmp_path: Path, folder: Path) -> None:
    class Shifted(RowsFile):
        def labels(self, role: str, most: int) -> np.ndarray:
            return super().labels(role, most) + 1e9

    small = made(tmp_path, folder, regression=True)
    large = replace(small, rows=Shifted(tmp_path / "rows.parquet"))

    def near(outputs: Outputs) -> float:
        return float(np.corrcoef(outputs.values[:, 0], outputs.labels)[0, 1])

    one, other = (finetune(each, replace(SPEC, epochs=2), near, ignore) for each in (small, large))
    np.testing.assert_allclose(other.test.values - 1e9, one.test.values, atol=1e-3)


def test_a_disk_that_is_full_costs_the_state_and_not_the_training(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    inputs = replace(inputs, save_seconds=0.0)
    monkeypatch.setattr(torch, "save", full)
    found = finetune(inputs, replace(SPEC, epochs=1), judge, ignore)
    assert found.facts["states_not_saved"] > 0
    assert list(inputs.folder.iterdir()) == []


def test_few_rows_and_few_steps(inputs: Inputs) -> None:
    found = finetune(inputs, replace(SPEC, max_train_rows=40, most_steps=5), judge, ignore)
    assert found.facts["rows"] == {"train": 40, "validation": 60, "test": 60}
    assert found.facts["steps"] == 5
    assert found.facts["ended"] == "steps"


def test_the_rate_grows_then_falls_to_nothing() -> None:
    rates = [schedule(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([k / 11 for k in range(1, 11)])
    assert rates[10] == 1.0
    assert np.diff(rates[10:]) == pytest.approx(np.full(89, -1 / 90))
    assert schedule(0, 1, 0.006) == 1.0
