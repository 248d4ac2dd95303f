"""Mixtures as checkpoints: what is registered of one, and what a broken attempt leaves."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from headstart.checkpoints.card import read_card
from headstart.failures import Interrupted, NotApplicable
from tests.worker.small_family import checkpoint, files_of, make_family, trio
from tests.worker.small_rows import ignore
from worker.checkpoints import find_files
from worker.mixtures import Mixture, keep_mixture, mixture_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

THIRDS = (1 / 3, 1 / 3, 1 / 3)
TOLD = {
    "rule": "region",
    "region": 2,
    "weights": "uniform",
    "target": "films",
    "left_out": ["me/x: tuned on it"],
}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family(tmp_path_factory.mktemp("family"))


@pytest.fixture
def own(family: Path, tmp_path: Path) -> Path:
    """The family's folders again, to be changed."""
    shutil.copytree(family, tmp_path / "own")
    return tmp_path / "own"


def mixture_of(folder: Path, weights: Sequence[float] = THIRDS, **changes: Any) -> Mixture:
    return Mixture(
        members=[
            checkpoint(one, number, name=f"me/m{number}", details={"finetuned_on": "films | tv"})
            for number, one in enumerate(trio(folder), 2)
        ],
        files=[files_of(one) for one in trio(folder)],
        weights=weights,
        vanilla=checkpoint(folder / "vanilla", 1, name="org/base", **changes),
        base=files_of(folder / "vanilla"),
    )


def test_a_mixture_is_kept_with_a_card_and_found_by_its_draft(family: Path, tmp_path: Path) -> None:
    mixture, root = mixture_of(family), tmp_path / "kept"
    draft = keep_mixture(mixture, "me/centroid", TOLD, ignore, root=root)
    assert (draft.family, draft.name, draft.license, draft.is_vanilla) == (
        "org/base",
        "me/centroid",
        "mit",
        False,
    )
    details = draft.details
    assert (details["base_model"], details["centroid_of"], details["centroid_rule"]) == (
        "org/base",
        [2, 3, 4],
        "region",
    )
    assert details["centroid_weights"] == list(THIRDS)
    assert details["centroid_weighed"] == "uniform"
    assert "finetuned_on" not in details
    json.dumps(details)
    made = replace(checkpoint(root, 9), **{n: getattr(draft, n) for n in ("name", "revision", "details")})
    files = find_files(made, roots=[root], cache=tmp_path, pickles=False, report=ignore)
    assert files.digest == draft.revision
    assert files.folder.name == f"me--centroid-{draft.revision[7:19]}"
    values = load_file(files.folder / "model.safetensors")
    assert draft.parameters == sum(one.numel() for one in values.values())
    text = (files.folder / "README.md").read_text()
    assert read_card(text) == {
        "base_model": ["me/m2", "me/m3", "me/m4"],
        "base_model_relation": ["merge"],
        "license": ["mit"],
        "library_name": ["transformers"],
        "tags": ["headstart", "merge"],
    }
    for told in (
        r"films \| tv",
        mixture.files[2].digest,
        mixture.base.digest,
        "me/x: tuned on it",
        repr(1 / 3),
    ):
        assert told in text
    again = keep_mixture(mixture, "me/centroid", TOLD, ignore, root=root)
    assert again.revision == draft.revision
    assert [one.name for one in root.iterdir()] == [files.folder.name]


def test_members_of_several_licences_give_it_none(family: Path, tmp_path: Path) -> None:
    draft = keep_mixture(mixture_of(family, license="gpl"), "me/c", {}, ignore, root=tmp_path)
    assert draft.license is None
    assert "license:" not in (tmp_path / draft.details["path"] / "README.md").read_text()


def test_a_disk_that_is_full_leaves_nothing(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(share: float, *_: object) -> None:
        if share > 0.5:
            raise OSError(28, "No space left on device")

    root = tmp_path / "kept"
    with pytest.raises(Interrupted, match=r"The mixture could not be written to .*: No space left on device"):
        keep_mixture(mixture_of(family), "me/c", TOLD, full, root=root)
    assert list(root.iterdir()) == []


def test_a_copy_of_a_member_is_not_kept(own: Path, tmp_path: Path) -> None:
    first = keep_mixture(mixture_of(own), "me/c", TOLD, ignore, root=tmp_path / "first")
    folder = tmp_path / "first" / first.details["path"]
    for number, one in enumerate(trio(own)):  # of one body, and of several files
        shutil.rmtree(one)
        shutil.copytree(folder, one)
        with (one / "config.json").open("a") as config:
            config.write(" " * number)
    with pytest.raises(NotApplicable, match=r"The mixture is 'me/m2', file for file"):
        keep_mixture(mixture_of(own), "me/again", TOLD, ignore, root=tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


def test_one_checkpoint_of_two_names_is_no_mixture(own: Path, tmp_path: Path) -> None:
    for one in ("m2", "m3"):
        shutil.rmtree(own / one)
        shutil.copytree(own / "m1", own / one)
    with pytest.raises(NotApplicable, match=r"\('me/m2', 'me/m3', 'me/m4'\) are the same files"):
        keep_mixture(mixture_of(own), "me/c", TOLD, ignore, root=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_a_mixture_of_half_precision_is_not_rounded_when_it_is_loaded(
    own: Path, tmp_path: Path, key: str
) -> None:
    told = json.loads((own / "vanilla" / "config.json").read_text())
    told.pop("dtype", None)
    (own / "vanilla" / "config.json").write_text(json.dumps(told | {key: "float16"}))
    made = mixture_in(tmp_path / "mix", mixture_of(own), ignore).folder
    assert json.loads((made / "config.json").read_text()) == told | {key: "float32"}
    assert transformers.AutoModel.from_pretrained(made).dtype == torch.float32


def test_a_mixture_in_scratch_is_written_once(family: Path, tmp_path: Path) -> None:
    mixture = mixture_of(family)
    first = mixture_in(tmp_path, mixture, ignore)

    def never(*_: object) -> None:
        raise AssertionError

    assert mixture_in(tmp_path, mixture, never) == first
    other = mixture_in(tmp_path, mixture_of(family, (0.5, 0.25, 0.25)), ignore)
    assert other.digest != first.digest
    assert len(list(tmp_path.iterdir())) == 2
