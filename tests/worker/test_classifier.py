"""A new head on a tiny body, and what each tuning trains of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.worker.tiny_checkpoints import make_tiny
from worker.bodies import load_body
from worker.checkpoints import read_folder
from worker.classifier import new_classifier

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("bert", tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize("tuning", ["bitfit", "head", "lora"])
def test_a_tuning_trains_what_it_says_and_nothing_else(folder: Path, tuning: str) -> None:
    files = read_folder(folder, roots=[folder], pickles=False)
    body = load_body(files, torch.device("cpu"), torch.float32, with_head=False)
    classifier = new_classifier(body, 2, tuning, lora_rank=4, seed=0)
    trained = {name for name, _ in classifier.trained()} - classifier.head
    if tuning == "head":
        assert not trained
    elif tuning == "bitfit":
        assert (
            trained
            == {n for n, _ in classifier.body.model.named_parameters() if n.endswith("bias")}
            - classifier.head
        )
    else:
        assert all("lora_" in name for name in trained)
        assert len(trained) == 2 * 6 * body.layers
    assert {"classifier.weight", "classifier.bias"} <= classifier.head


def test_the_new_head_is_of_the_seed_and_the_body_of_the_checkpoint(folder: Path) -> None:
    files = read_folder(folder, roots=[folder], pickles=False)

    def weights(seed: int) -> dict[str, torch.Tensor]:
        body = load_body(files, torch.device("cpu"), torch.float32, with_head=False)
        classifier = new_classifier(body, 3, "full", lora_rank=4, seed=seed)
        return {name: p.detach() for name, p in classifier.body.model.named_parameters()} | {
            f"head {name}": torch.ones(()) for name in classifier.head
        }

    one, same_seed, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(one[name], same_seed[name]) for name in one)
    differ = {name for name in one if not torch.equal(one[name], other[name])}
    assert differ == {
        "classifier.weight",
        "bert.pooler.dense.weight",
    }  # masked language models have no pooler
    assert one["classifier.weight"].shape == (3, 32)
    assert float(one["classifier.weight"].std()) == pytest.approx(0.02, rel=0.3)
