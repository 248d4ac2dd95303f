"""Checkpoints of the hub, by the real client against a hub on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import huggingface_hub
import pytest
from huggingface_hub import constants

from headstart.entities import Checkpoint
from headstart.failures import CheckpointNotFound, Interrupted, JobFailure, Refused
from tests.worker.fake_hub import COMMIT, FakeHub, serving
from worker.checkpoints import CheckpointFiles, find_files, read_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "somebody/tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with one repository that holds more than a checkpoint needs."""
    source = tmp_path / "source"
    (source / "onnx").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors", "pytorch_model.bin"):
        (source / name).write_text(name)
    for name in ("README.md", "evil.py", "training_args.bin", "onnx/model.json"):
        (source / name).write_text("not wanted")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "")
    huggingface_hub.close_session()
    with serving() as running:
        point_to(running.url, monkeypatch)
        running.folders[NAME] = source
        yield running
        huggingface_hub.close_session()


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_ENDPOINT does, which the library reads when it is imported."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template)
    monkeypatch.setattr(constants, "ENDPOINT", url)


def fetch(tmp_path: Path, name: str = NAME, revision: str = "", *, pickles: bool = False) -> CheckpointFiles:
    checkpoint = Checkpoint(
        id=1, family="f", name=name, revision=revision, is_vanilla=False, parameters=None, license=None
    )
    said: list[str] = []
    files = find_files(
        checkpoint,
        roots=[],
        cache=tmp_path / "cache",
        pickles=pickles,
        report=lambda _fraction, stage, message: said.append(f"{stage} {message}"),
    )
    assert said == [f"fetching the checkpoint {name}"]
    return files


@pytest.mark.parametrize("revision", ["", "main", COMMIT])
def test_what_is_needed_is_fetched_and_pinned(hub: FakeHub, tmp_path: Path, revision: str) -> None:
    files = fetch(tmp_path, revision=revision)
    assert files.revision == COMMIT
    assert sorted(path.name for path in files.folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert not [asked for asked in hub.asked if "evil" in asked or ".bin" in asked or "onnx/" in asked]
    source = hub.folders[NAME]
    assert files.digest == read_folder(source, roots=[source], pickles=False).digest


def test_what_was_fetched_serves_when_the_hub_is_gone(hub: FakeHub, tmp_path: Path) -> None:
    files = fetch(tmp_path)
    hub.broken = True
    assert fetch(tmp_path) == files
    assert fetch(tmp_path, revision=COMMIT) == files


def test_no_byte_is_fetched_twice(hub: FakeHub, tmp_path: Path) -> None:
    fetch(tmp_path)
    hub.asked.clear()
    fetch(tmp_path, revision=COMMIT)
    assert not [asked for asked in hub.asked if asked.startswith("GET")]


def test_pickles_are_fetched_only_where_allowed_and_needed(hub: FakeHub, tmp_path: Path) -> None:
    assert fetch(tmp_path, pickles=True).weights[0].name == "model.safetensors"
    (hub.folders[NAME] / "model.safetensors").unlink()
    assert fetch(tmp_path / "other", pickles=True).weights[0].name == "pytorch_model.bin"
    with pytest.raises(Refused, match="'somebody/tiny' has no safetensors on the hub"):
        fetch(tmp_path / "third")
    assert not list((tmp_path / "third").rglob("*.bin"))


@pytest.mark.parametrize(
    ("name", "revision", "failure", "sentence"),
    [
        ("somebody/else", "", CheckpointNotFound, "The hub has no checkpoint 'somebody/else'"),
        ("no/such/form", "", CheckpointNotFound, "The hub has no checkpoint 'no/such/form'"),
        ("../../etc", "", CheckpointNotFound, "The hub has no checkpoint"),
        (NAME, "v9", CheckpointNotFound, f"does not give out '{NAME}' at revision v9"),
    ],
)
def test_what_the_hub_does_not_have_is_told(
    hub: FakeHub, tmp_path: Path, name: str, revision: str, failure: type[JobFailure], sentence: str
) -> None:
    with pytest.raises(failure, match=sentence) as caught:
        fetch(tmp_path, name, revision)
    assert caught.value.remedy.endswith(".")


def test_a_gated_checkpoint_is_told(hub: FakeHub, tmp_path: Path) -> None:
    hub.gated.add(NAME)
    with pytest.raises(CheckpointNotFound, match="only to those who accepted its terms") as caught:
        fetch(tmp_path)
    assert "HF_TOKEN" in caught.value.remedy


def test_a_hub_that_does_not_answer_is_tried_again(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.broken = True
    with pytest.raises(Interrupted, match=f"'{NAME}' at its newest revision could not be fetched") as caught:
        fetch(tmp_path)
    assert caught.value.retryable
    point_to("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(Interrupted, match="could not be fetched"):
        fetch(tmp_path)
