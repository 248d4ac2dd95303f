"""Datasets of the hub, by a folder that is laid out like one: the network is not asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

datasets = pytest.importorskip("datasets")

from headstart.errors import (  # noqa: E402 - after the skip
    BrokenFile,
    HeadstartError,
    InvalidInput,
    Unreachable,
)
from headstart.evidence.ingest import Errand, ImportLimits  # noqa: E402
from headstart.store import Store  # noqa: E402
from headstart.targets.spec import Hub, TargetSpec  # noqa: E402
from worker import hub_datasets  # noqa: E402
from worker.hub_datasets import open_splits, read_splits, split_roles  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from headstart.entities import ImportBatch

LIMITS = ImportLimits(roots=(), allow_private=False, max_rows=10_000, max_bytes=1 << 20, lease_seconds=60.0)


def write_split(folder: Path, split: str, labels: list[int], start: int) -> None:
    features = datasets.Features(
        {
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["entailment", "not_entailment"]),
            "idx": datasets.Value("int32"),
        }
    )
    count = range(len(labels))
    rows = {
        "sentence1": [f"first {start + k}" for k in count],
        "sentence2": [f"second {start + k}" for k in count],
        "label": labels,
        "idx": list(count),
    }
    folder.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two configs, the test split of one without labels, as GLUE has it."""
    folder = tmp_path_factory.mktemp("glue")
    datasets.disable_progress_bars()
    write_split(folder / "rte", "train", [0, 1] * 50, 0)
    write_split(folder / "rte", "validation", [0, 1] * 10, 1000)
    write_split(folder / "rte", "test", [-1] * 30, 2000)
    write_split(folder / "wnli", "train", [0, 1] * 20, 0)
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {name}/{split}-*\n" for split in splits)
        for name, splits in {"rte": ("train", "validation", "test"), "wnli": ("train",)}.items()
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    return folder


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Callable[..., ImportBatch]]:
    store = Store("sqlite://")

    def from_folder(path: Path, config: str | None = None, **params: Any) -> ImportBatch:
        spec = TargetSpec.model_validate(
            {"name": "set", "hub": {"id": "acme/glue", "config": config}} | params
        )
        errand = Errand(
            source="acme/glue",
            params=spec.model_dump(),
            limits=LIMITS,
            folder=tmp_path,
            progress=lambda *_: None,
            store=store,
            import_id=1,
        )
        with hub_datasets.hub_errors(Hub(id="acme/glue")):
            splits = open_splits(str(path), config, None, tmp_path / "cache")
        return read_splits(errand, spec, splits, "acme/glue at 0123")

    yield from_folder
    store.close()


def profile_of(batch: ImportBatch) -> dict[str, Any]:
    assert batch.rows is not None
    return batch.rows.profile


def test_splits_become_roles_and_an_unlabelled_test_gives_way(
    glue: Path, read: Callable[..., ImportBatch]
) -> None:
    batch = read(glue, "rte")
    profile = profile_of(batch)
    assert profile["rows"] == {"train": 90, "validation": 10, "test": 20}
    assert profile["dropped"] == {"test": {"no_label": 30}}
    assert profile["pair"] is True
    assert set(profile["classes"]) == {"entailment", "not_entailment"}
    assert profile["origins"] == {
        "train": "the rest of train of acme/glue at 0123",
        "validation": "10.0% of train of acme/glue at 0123, split off by seed 0",
        "test": "validation of acme/glue at 0123 (validation, since there is no labelled test)",
    }
    [target] = batch.targets
    assert (target.task, target.classes, target.rows_tested) == ("classification", 2, 20)


def test_splits_are_taken_as_named(glue: Path, read: Callable[..., ImportBatch]) -> None:
    hub = {"id": "acme/glue", "config": "rte", "splits": {"train": "validation", "test": "train"}}
    assert profile_of(read(glue, "rte", hub=hub))["rows"] == {"train": 18, "validation": 2, "test": 100}
    assert profile_of(read(glue, "wnli"))["rows"] == {"train": 28, "validation": 4, "test": 8}


def test_what_is_wrong_with_a_dataset_is_a_sentence(
    glue: Path, tmp_path: Path, read: Callable[..., ImportBatch]
) -> None:
    with pytest.raises(InvalidInput, match=r"'acme/glue' cannot be opened: .*rte.*wnli"):
        read(glue)
    with pytest.raises(InvalidInput, match="BuilderConfig 'mnli' not found"):
        read(glue, "mnli")
    with pytest.raises(BrokenFile, match="Did you mean 'sentence1'"):
        read(glue, "rte", columns={"text": "sentense1"})
    script = tmp_path / "coded"
    script.mkdir()
    (script / "coded.py").write_text("raise SystemExit('it ran')\n")
    with pytest.raises(InvalidInput, match="without running code, which is never done"):
        read(script)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "train.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(HeadstartError, match="acme/glue"):
        read(broken)
    listed = tmp_path / "listed"
    listed.mkdir()
    rows = [{"text": f"t {k}", "label": ["a", "b"]} for k in range(10)]
    (listed / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(BrokenFile, match="of type list"):
        read(listed)


def test_a_hub_that_cannot_be_reached_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def gone(*_: Any, **__: Any) -> str:
        raise httpx.ConnectError("[Errno 111] Connection refused")

    monkeypatch.setattr(hub_datasets, "commit_of", gone)
    monkeypatch.chdir(tmp_path)
    store = Store("sqlite://")
    errand = Errand(
        source="acme/glue",
        params={"name": "set", "hub": {"id": "acme/glue"}},
        limits=LIMITS,
        folder=tmp_path,
        progress=lambda *_: None,
        store=store,
        import_id=1,
    )
    with pytest.raises(Unreachable, match=r"'acme/glue' cannot be read from the hub \(ConnectError\)"):
        hub_datasets.import_target(errand)
    (tmp_path / "acme" / "glue").mkdir(parents=True)
    with pytest.raises(InvalidInput, match="would be read in place of the dataset"):
        hub_datasets.import_target(errand)
    store.close()


@pytest.mark.parametrize(
    ("splits", "wanted", "roles"),
    [
        (
            ("test", "train", "validation"),
            None,
            {"train": "train", "validation": "validation", "test": "test"},
        ),
        (("train", "dev", "unsupervised"), None, {"train": "train", "validation": "dev"}),
        (("all",), None, {"train": "all"}),
        (("a", "b"), {"test": "b", "train": "a"}, {"train": "a", "test": "b"}),
    ],
)
def test_roles_of_splits(splits: tuple[str, ...], wanted: Any, roles: dict[str, str]) -> None:
    assert split_roles(splits, wanted, "d") == roles


@pytest.mark.parametrize(
    ("splits", "wanted", "sentence"),
    [
        (("a", "b"), None, "No split of the dataset 'd' is called train: there are a, b"),
        (
            ("train", "validation_matched"),
            {"train": "train", "test": "validation"},
            "has no split 'validation'",
        ),
        (("a", "b"), {"train": "a", "test": "a"}, "One split is to be two roles"),
    ],
)
def test_roles_that_cannot_be(splits: tuple[str, ...], wanted: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        split_roles(splits, wanted, "d")
