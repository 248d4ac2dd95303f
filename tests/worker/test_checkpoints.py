"""Checkpoints in folders: only under a root, only what was registered, never a pickle unasked."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from headstart.entities import Checkpoint
from headstart.failures import CheckpointNotFound, Interrupted, JobFailure, Refused
from worker import checkpoints
from worker.checkpoints import CheckpointFiles, find_files, read_folder

if TYPE_CHECKING:
    from pathlib import Path


def write_folder(folder: Path, *, weights: str = "model.safetensors") -> Path:
    """The names of a checkpoint, with contents that nobody reads here."""
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    (folder / weights).write_bytes(b"weights")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def find(folder: Path | str, root: Path, *, revision: str = "", pickles: bool = False) -> CheckpointFiles:
    checkpoint = Checkpoint(
        id=1,
        family="f",
        name=str(folder),
        revision=revision,
        is_vanilla=False,
        parameters=None,
        license=None,
        details={"source": "folder"},
    )
    return find_files(checkpoint, roots=[root], cache=root / "cache", pickles=pickles, report=lambda *_: None)


def test_a_folder_under_a_root_is_found(root: Path) -> None:
    folder = write_folder(root / "a" / "b")
    files = find(folder, root)
    assert files.folder == folder
    assert files.weights == (folder / "model.safetensors",)
    assert files.digest == files.revision
    assert find(folder, root, revision=files.digest) == files


def test_equal_files_have_one_digest_wherever_they_lie(root: Path) -> None:
    one, other = write_folder(root / "one"), write_folder(root / "other")
    (other / "README.md").write_text("not part of it")
    assert find(one, root).digest == find(other, root).digest


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_change_of_any_part_changes_the_digest(root: Path, name: str) -> None:
    folder = write_folder(root / "a")
    before = find(folder, root).digest
    (folder / name).write_bytes(b"other")
    assert find(folder, root).digest != before
    with pytest.raises(CheckpointNotFound, match="have changed since they were registered") as caught:
        find(folder, root, revision=before)
    assert "register the folder again" in caught.value.remedy


def test_a_file_is_hashed_once_a_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(root / "a")
    before = find(folder, root)

    def hashed_again(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(checkpoints.hashlib, "file_digest", hashed_again)
    assert find(folder, root) == before


@pytest.mark.parametrize("asked", ["/etc", "{root}/../outside", "{root}/link", "{root}/../root2"])
def test_a_folder_outside_the_roots_is_refused(root: Path, asked: str) -> None:
    write_folder(root.parent / "outside")
    write_folder(root.parent / "root2")
    (root / "link").symlink_to(root.parent / "outside")
    with pytest.raises(Refused, match="not under a folder that may be read") as caught:
        find(asked.format(root=root), root)
    assert "HEADSTART_ROOTS" in caught.value.remedy


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "vocab.txt", "deep"])
def test_a_link_out_of_the_roots_is_refused(root: Path, name: str) -> None:
    folder, outside = write_folder(root / "a"), root.parent / "secret"
    outside.write_text("{}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    with pytest.raises(Refused, match=f"{name}' is not under a folder"):
        find(folder, root)


def test_links_within_the_roots_are_followed(root: Path) -> None:
    folder = write_folder(root / "a")
    (folder / "model.safetensors").rename(root / "blob")
    (folder / "model.safetensors").symlink_to(root / "blob")
    (root / "alias").symlink_to(folder)
    assert find(root / "alias", root).weights == (folder / "model.safetensors",)


def loop(folder: Path) -> None:
    (folder / "vocab.txt").symlink_to(folder / "vocab.txt")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def a_fifo_for_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index(folder: Path, text: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text)


@pytest.mark.parametrize(
    ("spoil", "failure", "sentence"),
    [
        (loop, Refused, "cannot be resolved"),
        (no_config, CheckpointNotFound, "There is no config.json"),
        (no_tokenizer, CheckpointNotFound, "There is no tokenizer"),
        (no_weights, CheckpointNotFound, "There is no model.safetensors"),
        (a_fifo_for_weights, CheckpointNotFound, "There is no model.safetensors"),
        (only_pickles, Refused, "as pickles alone"),
        (lambda f: index(f, "{"), Refused, "is no JSON"),
        (lambda f: index(f, "[" * 100_000), Refused, "is no JSON"),
        (lambda f: index(f, "[]"), Refused, "holds no JSON object"),
        (lambda f: index(f, "{}"), Refused, "names 0 files"),
        (
            lambda f: index(f, json.dumps({"weight_map": {"w": 1}})),
            Refused,
            "which is no .safetensors file beside it",
        ),
        (
            lambda f: index(f, json.dumps({"weight_map": {"w": "../x.safetensors"}})),
            Refused,
            "which is no .safetensors file beside it",
        ),
        (
            lambda f: index(f, json.dumps({"weight_map": {"w": "/x.safetensors"}})),
            Refused,
            "which is no .safetensors file beside it",
        ),
        (
            lambda f: index(f, json.dumps({"weight_map": {"w": "x.py"}})),
            Refused,
            "which is no .safetensors file beside it",
        ),
        (
            lambda f: index(f, json.dumps({"weight_map": {"w": "x.bin"}})),
            Refused,
            "which is no .safetensors file beside it",
        ),
        (
            lambda f: index(f, json.dumps({"weight_map": {"w": ["x.safetensors"]}})),
            Refused,
            "which is no .safetensors file beside it",
        ),
        (
            lambda f: index(f, json.dumps({"weight_map": {"w": "part.safetensors"}})),
            CheckpointNotFound,
            "part.safetensors', which is not there",
        ),
    ],
)
def test_a_spoilt_folder_is_told(root: Path, spoil: Any, failure: type[JobFailure], sentence: str) -> None:
    folder = write_folder(root / "a")
    spoil(folder)
    with pytest.raises(failure, match=sentence) as caught:
        find(folder, root)
    assert caught.value.sentence.endswith(".")
    assert caught.value.remedy.endswith(".")


@pytest.mark.parametrize(
    ("name", "failure"),
    [("nowhere", CheckpointNotFound), ("a\0b", Refused), ("x" * 5000, CheckpointNotFound)],
)
def test_no_folder_is_told(root: Path, name: str, failure: type[JobFailure]) -> None:
    with pytest.raises(failure):
        find(f"{root}/{name}", root)


def test_a_file_is_no_folder(root: Path) -> None:
    (root / "file").write_text("")
    with pytest.raises(CheckpointNotFound, match="There is no folder"):
        find(root / "file", root)


@pytest.mark.parametrize(
    ("error", "failure", "sentence"),
    [
        (PermissionError(13, "Permission denied", "w"), CheckpointNotFound, "may not read w"),
        (OSError(5, "Input/output error"), Interrupted, "could not be read: .*Input/output error"),
    ],
)
def test_a_disk_that_does_not_give_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, failure: type[JobFailure], sentence: str
) -> None:
    def fail(*_: Any) -> str:
        raise error

    monkeypatch.setattr(checkpoints, "digest_files", fail)
    with pytest.raises(failure, match=sentence):
        find(write_folder(root / "a"), root)


def test_pickles_only_where_they_are_allowed_and_needed(root: Path) -> None:
    folder = write_folder(root / "a", weights="pytorch_model.bin")
    assert find(folder, root, pickles=True).weights == (folder / "pytorch_model.bin",)
    (folder / "model.safetensors").write_bytes(b"")
    assert find(folder, root, pickles=True).weights == (folder / "model.safetensors",)


def test_a_file_larger_than_any_real_one_is_not_read(root: Path) -> None:
    folder = write_folder(root / "a")
    (folder / "model.safetensors").unlink()
    with (folder / "model.safetensors.index.json").open("wb") as file:
        file.truncate(checkpoints.MOST_JSON_BYTES + 1)
    with pytest.raises(Refused, match="more than 67108864 bytes"):
        read_folder(folder, roots=[root], pickles=False)
