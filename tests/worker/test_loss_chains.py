"""Chains of a body's loss on rows: what the loss is, what moves, and that nothing is lost in between."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from headstart.failures import NonFinite, NotApplicable, OutOfMemory
from headstart.workbench import Cancelled, ChainSpec, FeatureSpec, LinearHead
from tests.worker.test_finetune import ignore, made, sentiment
from tests.worker.test_mixed_bench import bench_in
from tests.worker.tiny_checkpoints import ARCHITECTURES, HIDDEN, make_tiny
from worker import chain_subject, loss_chains, row_losses
from worker.chain_subject import subject
from worker.checkpoints import read_folder
from worker.features import open_features
from worker.loss_chains import loss_chains as run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from headstart.workbench import Chains
    from worker.chain_subject import Subject
    from worker.tuned import Inputs

ROWS = 40
DRAWN = np.random.default_rng(0)
HEAD = LinearHead(
    weights=DRAWN.normal(size=(HIDDEN, 2)).astype(np.float32) / 8, bias=np.array([0.1, -0.2], np.float32)
)
SPEC = ChainSpec(
    head=HEAD,
    most_rows=ROWS,
    max_tokens=32,
    radius=1.0,
    step=1e-6,
    scheme="euler",
    chains=2,
    draws=6,
    burn_in=2,
    batch_rows=8,
    trace_probes=2,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("bert", tmp_path_factory.mktemp("bert"), num_hidden_layers=1)


@pytest.fixture
def inputs(tmp_path: Path, folder: Path) -> Inputs:
    return made(tmp_path, folder)


def same(one: Chains, other: Chains) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("excess", "distance", "centre", "trace", "slope", "step", "acceptance")
    )


def log_losses(inputs: Inputs, head: LinearHead) -> np.ndarray:
    """Of the head on the features that methods are given, in numpy."""
    spec = FeatureSpec(precision="fp32", max_tokens=SPEC.max_tokens)
    features = open_features(
        files=inputs.files, rows=inputs.rows, spec=spec, cache=inputs.cache, report=ignore
    )
    train = features.rows("train")
    logits = train.array("last")[:ROWS].astype(np.float64) @ head.weights + head.bias
    labels = train.labels[:ROWS]
    features.close()
    return np.logaddexp.reduce(logits, axis=1) - logits[np.arange(ROWS), labels]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_at_the_checkpoint_is_that_of_the_head_on_its_features(
    tmp_path: Path, architecture: str
) -> None:
    inputs = made(tmp_path, make_tiny(architecture, tmp_path / "checkpoint"))
    found = run(inputs, replace(SPEC, draws=1, burn_in=1, chains=1, trace_probes=1), ignore)
    np.testing.assert_allclose(found.centre, log_losses(inputs, HEAD), atol=2e-5)
    assert np.isfinite([*found.trace, found.slope, found.acceptance, *found.excess[0]]).all()
    assert found.distance[0, 0] > 0


def test_what_is_told_of_the_chains(inputs: Inputs) -> None:
    found = run(inputs, SPEC, ignore)
    assert found.excess.shape == found.distance.shape == (2, 6)
    assert found.strength == pytest.approx(ROWS / math.log(ROWS))
    assert found.localisation == pytest.approx(found.dimension / SPEC.radius**2)
    assert found.step == SPEC.step
    assert np.all(np.diff(found.distance) > 0)
    facts = found.facts
    assert (facts["rows"], facts["steps"], facts["dtype"]) == (ROWS, 8, "float32")
    assert facts["architecture"] == "bert"
    assert 0 < facts["seconds_a_draw"] < 5
    other = run(inputs, replace(SPEC, beta=0.5, localisation=7.0), ignore)
    assert (other.strength, other.localisation) == (ROWS / 2, 7.0)


def test_the_excess_is_the_difference_on_the_same_rows(inputs: Inputs) -> None:
    """Without a burn-in the first draw is the checkpoint; with plain descent losses fall by the slope."""
    found = run(inputs, replace(SPEC, burn_in=0), ignore)
    np.testing.assert_allclose(found.excess[:, 0], 0.0, atol=1e-6)
    assert found.distance[:, 0].tolist() == [0.0, 0.0]
    cold = {"beta": 1e8, "step": 5e-13}  # so that the noise is nothing beside the pull
    whole = replace(SPEC, burn_in=1, draws=1, batch_rows=ROWS, chains=1, localisation=0.0, **cold)
    moved = run(inputs, whole, ignore)
    fall = -whole.step / 2 * moved.strength * moved.slope
    noise = 5 * math.sqrt(moved.slope * whole.step)
    assert abs(fall) > 10 * noise
    assert moved.excess[0, 0] == pytest.approx(fall, rel=0.15)


def test_only_what_the_loss_reads_moves(inputs: Inputs) -> None:
    with subject(inputs, SPEC, ignore) as found:
        assert not any("pooler" in name for name in found.centre)
        body, loss = found.loss.body, found.loss
        used = {int(token) for row in range(ROWS) for token in loss.tokens.ids(row)} | {body.pad_id}
        assert body.backbone.get_input_embeddings().weight.shape[0] == len(used) < body.vocabulary
        layer = 4 * (HIDDEN**2 + HIDDEN) + 2 * HIDDEN * 64 + 64 + HIDDEN + 4 * HIDDEN
        embeddings = (len(used) + 128 + 2) * HIDDEN + 2 * HIDDEN
        told = run(inputs, SPEC, ignore)
        assert told.dimension == layer + embeddings
    wider = run(inputs, replace(SPEC, moves_head=True), ignore)
    assert wider.dimension == told.dimension + HIDDEN * 2 + 2
    assert not np.array_equal(wider.excess, told.excess)
    assert wider.facts["head"] == {"kind": "given", "moves": True}


def test_the_slope_is_the_squared_gradient_of_all_rows(inputs: Inputs) -> None:
    with subject(inputs, SPEC, ignore) as found:
        square = sum(float((one**2).sum()) for one in gradient(found).values())
    assert run(inputs, SPEC, ignore).slope == pytest.approx(square, rel=1e-4)


def gradient(found: Subject, away: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Of the mean loss of all rows, beside the checkpoint."""
    at = {
        name: (one if away is None else one + away[name]).requires_grad_()
        for name, one in found.centre.items()
    }
    value = found.loss(at, torch.arange(found.loss.rows))
    return dict(zip(at, torch.autograd.grad(value, list(at.values())), strict=True))


@pytest.mark.parametrize("stop_after", [1, 5])
def test_a_killed_run_gives_what_it_would_have_given(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    whole = run(inputs, SPEC, ignore)
    inputs = replace(inputs, save_seconds=0.0)
    monkeypatch.setattr(loss_chains, "SAVE_SHARE", 1e9)

    def kill(_fraction: float, _stage: str, message: str, _left: float | None) -> None:
        if message.startswith(f"step {stop_after} of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(inputs, SPEC, kill)
    (state,) = inputs.folder.glob("chains-*.pt")
    stages: list[str] = []
    resumed = run(inputs, SPEC, lambda _f, stage, message, _s: stages.append(f"{stage} {message}"))
    assert same(resumed, whole)
    assert resumed.facts["resumed_at_step"] == stop_after
    assert not any("trace" in stage for stage in stages)
    assert any(f"step {stop_after} of 8" in stage for stage in stages)
    assert same(run(inputs, SPEC, kill), whole)  # they have ended: no step is taken
    state.write_bytes(state.read_bytes()[:500])
    assert same(run(inputs, SPEC, ignore), whole)
    assert not same(run(inputs, replace(SPEC, seed=9), ignore), whole)


def test_preconditioned_chains_go_on_too(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(SPEC, precondition=0.9, trace_probes=0, step=1e-14)
    whole = run(inputs, spec, ignore)
    inputs = replace(inputs, save_seconds=0.0)
    monkeypatch.setattr(loss_chains, "SAVE_SHARE", 1e9)

    def kill(_fraction: float, _stage: str, message: str, _left: float | None) -> None:
        if message.startswith("step 3 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(inputs, spec, kill)
    assert same(run(inputs, spec, ignore), whole)


def test_the_same_seed_gives_the_same_bits(inputs: Inputs) -> None:
    first, again, other = (run(inputs, replace(SPEC, seed=seed), ignore) for seed in (3, 3, 4))
    assert same(first, again)
    assert not np.array_equal(first.excess, other.excess)
    assert not np.array_equal(first.excess[0], first.excess[1])
    np.testing.assert_array_equal(first.centre, other.centre)


def test_a_step_of_crank_nicolson_is_chosen(inputs: Inputs) -> None:
    found = run(inputs, replace(SPEC, step=None, scheme="crank-nicolson"), ignore)
    assert found.step > 0
    assert found.acceptance > 0.3
    assert found.facts["curvature"] > 0


def scarce(monkeypatch: pytest.MonkeyPatch, tokens: int, *, only: str = "") -> None:
    """Parts of more tokens run out of memory where gradients are taken."""
    whole: Callable[..., dict[str, torch.Tensor]] = row_losses.collate

    def collate(body: object, of: object, rows: np.ndarray) -> dict[str, torch.Tensor]:
        made = whole(body, of, rows)
        if torch.is_grad_enabled() and made["input_ids"].numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return made

    monkeypatch.setattr(row_losses, "collate", collate)


def test_memory_that_runs_out_halves_what_is_held_and_changes_nothing_else(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(inputs, SPEC, ignore)
    scarce(monkeypatch, 70)
    found = run(inputs, SPEC, ignore)
    assert found.facts["held_tokens"] < 100
    for name in ("excess", "distance", "centre"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), atol=1e-5)
    np.testing.assert_allclose(found.trace, whole.trace, rtol=1e-3, atol=1e-3)
    monkeypatch.undo()
    scarce(monkeypatch, 5)
    with pytest.raises(OutOfMemory, match="One text of"):
        run(inputs, SPEC, ignore)


def test_activations_that_are_not_held_are_computed_again(inputs: Inputs) -> None:
    """The same gradients, bit for bit, from two forward passes."""
    with subject(inputs, SPEC, ignore) as found:
        found.loss.budget.tokens = 64
        asked: list[int] = []
        found.loss.tick = lambda: asked.append(1)
        held = gradient(found)
        once = len(asked)
        found.loss.held = 100
        again = gradient(found)
        assert len(asked) - once == 2 * once - 1  # the last part is used at once
        assert all(torch.equal(held[name], again[name]) for name in held)


def test_a_cpu_holds_no_more_than_it_may(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(inputs, SPEC, ignore)
    assert whole.facts["held_tokens"] == row_losses.HELD["cpu"]
    monkeypatch.setitem(row_losses.HELD, "cpu", 100)
    found = run(inputs, SPEC, ignore)
    assert found.facts["held_tokens"] == 100
    np.testing.assert_allclose(found.excess, whole.excess, atol=1e-5)
    np.testing.assert_allclose(found.trace, whole.trace, rtol=1e-3, atol=1e-3)


def test_of_a_step_that_was_given_the_curvature_is_told(inputs: Inputs) -> None:
    """Unless nothing is to be spent on second derivatives, or it is not what a step follows."""
    found = run(inputs, SPEC, ignore)
    assert found.curvature is not None
    assert found.curvature == found.facts["curvature"] > 0
    assert run(inputs, replace(SPEC, trace_probes=0), ignore).curvature is None
    scaled = run(inputs, replace(SPEC, precondition=0.9, controlled=False), ignore)
    assert scaled.curvature is None
    assert np.all(scaled.distance < SPEC.radius)  # positions that no row has are not thrown away


def test_too_little_memory_for_the_chains_is_told(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(loss_chains, "start", start)
    with pytest.raises(OutOfMemory, match="2 chains"):
        run(inputs, SPEC, ignore)


def test_bf16_is_near(inputs: Inputs) -> None:
    exact, rough = (run(inputs, replace(SPEC, precision=precision), ignore) for precision in ("fp32", "bf16"))
    assert rough.facts["dtype"] == "bfloat16"
    np.testing.assert_allclose(rough.centre, exact.centre, atol=0.05)
    np.testing.assert_allclose(rough.trace, exact.trace, rtol=1e-4)  # always in fp32
    np.testing.assert_allclose(rough.distance, exact.distance, rtol=0.05)


def test_weights_that_are_no_numbers_are_told(tmp_path: Path, folder: Path) -> None:
    copy = make_tiny("bert", tmp_path / "broken", num_hidden_layers=1)
    tensors = load_file(copy / "model.safetensors")
    tensors["bert.encoder.layer.0.output.dense.bias"][0] = float("nan")
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    inputs = replace(made(tmp_path, folder), files=read_folder(copy, roots=[copy], pickles=False))
    with pytest.raises(NonFinite, match="at the checkpoint is NaN or infinite on 40 of 40 rows"):
        run(inputs, SPEC, ignore)


def test_a_chain_that_leaves_the_finite_is_told_with_step_and_epsilon(inputs: Inputs) -> None:
    for step in ("1e+20", "1e+35"):
        with pytest.raises(
            NonFinite, match=rf"left the finite at step \d of 8, with epsilon = {re.escape(step)}"
        ):
            run(inputs, replace(SPEC, step=float(step)), ignore)


def test_targets_that_have_no_classes_or_rows_are_refused(tmp_path: Path, inputs: Inputs) -> None:
    values = sentiment(tmp_path / "v.parquet", {"train": 9, "validation": 3, "test": 3}, regression=True)
    with pytest.raises(NotApplicable, match="regression") as told:
        run(replace(inputs, rows=values), SPEC, ignore)
    assert "masked-lm" in told.value.remedy
    empty = replace(inputs, rows=sentiment(tmp_path / "e.parquet", {"validation": 3, "test": 3}))
    with pytest.raises(NotApplicable, match="no train rows"):
        run(empty, SPEC, ignore)
    with pytest.raises(NotApplicable, match="1 / log n"):
        run(inputs, replace(SPEC, most_rows=1), ignore)


def test_every_step_is_reported_and_a_cancel_does_not_wait_for_its_end(inputs: Inputs) -> None:
    seen: list[tuple[float, str, str, float | None]] = []
    run(inputs, SPEC, lambda *said: seen.append(said))
    fractions = [said[0] for said in seen]
    assert fractions == sorted(fractions)
    assert {said[1] for said in seen} >= {"trace", "burn-in", "sampling", "acceptance"}
    messages = [said[2] for said in seen]
    assert all(any(f"step {step} of 8" in message for message in messages) for step in range(8))
    assert all((said[3] or 0) >= 0 for said in seen)
    inside = sum("step 4 of 8" in message for message in messages)
    assert inside > SPEC.chains  # at each part of each chain's batch

    def cancel(_fraction: float, _stage: str, message: str, _left: float | None) -> None:
        if "step 4 of 8" in message:
            cancel.times += 1
            if cancel.times == 2:
                raise Cancelled

    cancel.times = 0
    with pytest.raises(Cancelled):
        run(inputs, SPEC, cancel)


def test_a_disk_that_is_full_costs_the_state_and_not_the_chains(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(inputs, SPEC, ignore)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    found = run(replace(inputs, save_seconds=0.0), SPEC, ignore)
    assert found.facts["states_not_saved"] > 0
    assert same(found, whole)
    assert list(inputs.folder.iterdir()) == []


def test_a_padding_far_into_the_table_moves_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders pad with the last token of a large table: the others are left out all the same."""
    monkeypatch.setattr("worker.vocabulary.MOST_PAD_ID", -1)
    inputs = made(
        tmp_path, make_tiny("llama", tmp_path / "checkpoint", num_hidden_layers=1, pad_token_id=200)
    )
    whole = run(inputs, SPEC, ignore)
    monkeypatch.setattr(chain_subject, "MOST_PAD_ID", -1)
    smaller = run(inputs, SPEC, ignore)
    np.testing.assert_allclose(smaller.centre, whole.centre, atol=1e-6)
    assert smaller.facts["embeddings_moved"] < whole.facts["embeddings_moved"] / 4
    assert smaller.slope == pytest.approx(whole.slope, rel=1e-5)


def test_the_bench_samples(tmp_path: Path) -> None:
    make_tiny("bert", tmp_path / "1", num_hidden_layers=1)
    sentiment(tmp_path / "rows.parquet", {"train": 20, "validation": 5, "test": 5})
    sent: list[dict] = []
    bench = bench_in(tmp_path, tmp_path, send=sent.append)
    found = bench.loss_chains(replace(SPEC, draws=2))
    assert found.centre.shape == (20,)
    assert sent
    bench.cancelled.set()
    with pytest.raises(Cancelled):
        bench.loss_chains(SPEC)
