"""Folders from import to checkpoint, on a real store."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from headstart.checkpoints import safetensors
from headstart.checkpoints.files import digest_of, find_folder
from headstart.checkpoints.place import place_of
from headstart.entities import Checkpoint, Import, ImportState
from headstart.evidence.ingest import ImportLimits, run_next
from tests.checkpoint_folders import CARD, CONFIG, PARAMETERS, TENSORS, entries, make_folder, packed, weights

if TYPE_CHECKING:
    from pathlib import Path

    from headstart.store import Store

LIMITS = ImportLimits(roots=(), allow_private=False, max_rows=1000, max_bytes=1 << 20, lease_seconds=60.0)


def run(
    store: Store, folder: Path, *, roots: Path | None = None, pickles: bool = False, **params: Any
) -> Import:
    item = store.queue_import(store.create_import("checkpoint", str(folder), params).id)
    limits = replace(LIMITS, roots=(roots or folder.parent,), allow_pickles=pickles)
    assert run_next(store, limits)
    return store.get_import(item.id)


def registered(store: Store, folder: Path, **given: Any) -> Checkpoint:
    done = run(store, folder, **given)
    assert done.state is ImportState.SUCCEEDED, done.error
    assert done.report is not None
    assert done.report.checkpoint_id is not None
    return store.checkpoint(done.report.checkpoint_id)


def refused(store: Store, folder: Path, **given: Any) -> str:
    done = run(store, folder, **given)
    assert done.state is ImportState.FAILED
    assert done.error is not None
    assert done.error.endswith(".")
    assert store.checkpoints().items == ()
    assert store.families() == ()
    return done.error


def test_a_folder_becomes_a_checkpoint_with_all_that_it_tells(memory: Store, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine", card=CARD)
    found = registered(memory, folder)
    assert (found.name, found.family, found.is_vanilla) == (str(folder), "roberta-base", False)
    assert (found.parameters, found.license) == (PARAMETERS, "apache-2.0")
    digest = digest_of(find_folder(folder, [tmp_path], pickles=False), lambda _: None)
    assert found.revision == digest
    assert found.details == {
        "source": "folder",
        "path": str(folder),
        "revision": digest,
        "files": {
            "config.json": (folder / "config.json").stat().st_size,
            "tokenizer.json": 2,
            "model.safetensors": len(weights()),
        },
        "model_type": "bert",
        "architecture": "BertForSequenceClassification",
        "head": "sequence classification with 3 labels",
        "labels": ["entailment", "neutral", "contradiction"],
        "hidden_size": 4,
        "layers": 2,
        "vocab_size": 10,
        "max_positions": 16,
        "dtype": "F32",
        "tags": ["text-classification", "nli"],
        "datasets": ["glue", "multi_nli"],
        "language": ["en"],
        "base_model": "roberta-base",
        "base_model_told_by": "card",
    }


def test_the_vanilla_that_the_card_names_is_noted_beside_it(memory: Store, tmp_path: Path) -> None:
    registered(memory, make_folder(tmp_path / "mine", card=CARD))
    vanilla = memory.checkpoint(memory.family("roberta-base").vanilla_id or 0)
    assert (vanilla.name, vanilla.revision, vanilla.is_vanilla) == ("roberta-base", "", True)


def test_the_same_files_again_are_the_same_checkpoint(memory: Store, tmp_path: Path) -> None:
    first = registered(memory, make_folder(tmp_path / "mine"), family="f")
    assert registered(memory, tmp_path / "mine") == first
    assert registered(memory, make_folder(tmp_path / "copy"), name=first.name).id == first.id
    (tmp_path / "mine" / "notes.txt").write_text("no part of it")
    (tmp_path / "mine" / "README.md").write_text(CARD)
    assert registered(memory, tmp_path / "mine").id == first.id


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_other_files_are_another_checkpoint_of_the_same_family(
    memory: Store, tmp_path: Path, file: str
) -> None:
    folder = make_folder(tmp_path / "mine")
    first = registered(memory, folder, family="f")
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[:-1] + b"1" if file.startswith("model") else content + b" ")
    second = registered(memory, folder)
    assert (second.name, second.family) == (first.name, "f")
    assert second.id != first.id
    assert second.revision != first.revision


def test_a_checkpoint_of_published_scores_is_completed_and_pinned(memory: Store, tmp_path: Path) -> None:
    known = registered(memory, make_folder(tmp_path / "other", card=CARD))
    folder = make_folder(tmp_path / "roberta")
    found = registered(memory, folder, name="roberta-base")
    assert (found.id, found.revision) == (memory.family(known.family).vanilla_id, "")
    assert found.parameters == PARAMETERS
    place = place_of(found)
    assert (place.source, place.where) == ("folder", str(folder))
    assert place.revision.startswith("sha256:")
    assert registered(memory, folder, name="roberta-base").id == found.id
    (folder / "tokenizer.json").write_text("{ }")
    assert registered(memory, folder, name="roberta-base").id != found.id


def test_files_of_a_completed_checkpoint_are_known_again(memory: Store, tmp_path: Path) -> None:
    registered(memory, make_folder(tmp_path / "other", card=CARD))
    config = CONFIG | {"max_position_embeddings": 32}
    folder = make_folder(tmp_path / "roberta", config=config)
    completed = registered(memory, folder, name="roberta-base")
    assert completed.revision == ""
    assert registered(memory, folder).id == completed.id
    assert registered(memory, make_folder(tmp_path / "copy", config=config)).id == completed.id


def test_files_of_several_checkpoints_are_the_oldest_of_the_family(memory: Store, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    first, second = (registered(memory, folder, name=name, family="f") for name in ("a", "b"))
    other = registered(memory, folder, name="c", family="g")
    assert len({first.id, second.id, other.id}) == 3
    assert registered(memory, folder).id == first.id
    assert registered(memory, folder, family="f").id == first.id
    assert registered(memory, folder, family="g").id == other.id
    assert registered(memory, folder, family="h").name == str(folder)


def test_a_bare_name_in_the_config_counts_where_the_store_knows_it(memory: Store, tmp_path: Path) -> None:
    hinted = CONFIG | {"_name_or_path": "roberta-base"}
    child = make_folder(tmp_path / "early", config=hinted)
    assert registered(memory, child).family == str(child)
    vanilla = make_folder(tmp_path / "vanilla", config=CONFIG | {"v": 1})
    registered(memory, vanilla, name="FacebookAI/roberta-base", family="rob", is_vanilla=True)
    found = registered(memory, make_folder(tmp_path / "child", config=hinted | {"v": 2}))
    assert (found.family, found.is_vanilla) == ("rob", False)
    assert (found.details["base_model"], found.details["base_model_told_by"]) == ("roberta-base", "config")
    of_family = make_folder(tmp_path / "of-family", config=CONFIG | {"_name_or_path": "ROB"})
    assert registered(memory, of_family).family == "rob"


def test_a_family_has_one_vanilla(memory: Store, tmp_path: Path) -> None:
    first = registered(memory, make_folder(tmp_path / "one"), name="one", family="f", is_vanilla=True)
    assert first.is_vanilla
    done = run(memory, make_folder(tmp_path / "two"), name="two", family="f", is_vanilla=True)
    assert done.error is not None
    assert f"'one' at {first.revision[:19]} (id {first.id})" in done.error
    assert [one.name for one in memory.checkpoints().items] == ["one"]


def test_tied_weights_and_buffers_count_once_and_not_at_all(memory: Store, tmp_path: Path) -> None:
    tied = TENSORS | {"cls.predictions.decoder.weight": ("F32", [10, 4])}
    assert registered(memory, make_folder(tmp_path / "a", tensors=tied)).parameters == PARAMETERS
    config = CONFIG | {"tie_word_embeddings": False}
    untied = registered(memory, make_folder(tmp_path / "b", tensors=tied, config=config))
    assert untied.parameters == PARAMETERS + 40


def test_shards_are_read_and_digested(memory: Store, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    (folder / "model.safetensors").unlink()
    halves = dict(list(TENSORS.items())[:2]), dict(list(TENSORS.items())[2:])
    names = [f"model-{n}-of-2.safetensors" for n in (1, 2)]
    for name, half in zip(names, halves, strict=True):
        (folder / name).write_bytes(weights(half))
    index = {"weight_map": {t: name for name, half in zip(names, halves, strict=True) for t in half}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found = registered(memory, folder)
    assert found.parameters == PARAMETERS
    assert set(names) < set(found.details["files"])
    (folder / names[1]).unlink()
    assert "model-2-of-2.safetensors" in str(run(memory, folder).error)


def test_pickles_are_read_only_where_the_settings_say_so(memory: Store, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine", pytorch_model__bin=b"\x80\x04")
    (folder / "model.safetensors").unlink()
    sentence = refused(memory, folder)
    assert "pickles" in sentence
    assert "HEADSTART_ALLOW_PICKLES" in sentence
    found = registered(memory, folder, pickles=True)
    assert found.parameters is None
    assert "pytorch_model.bin" in found.details["files"]


# -- what is refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"auto_map": {"AutoModel": "modeling.Evil"}}, "never run"),
        ({"model_type": None}, "no 'model_type'"),
        ({"model_type": 7}, "no 'model_type'"),
        ({"vocab_size": 11}, "vocab_size 11"),
        ({"hidden_size": 8}, "hidden_size 8"),
        ({"num_hidden_layers": 3}, "3 layers, and the weights have 2"),
        ({"num_hidden_layers": 10**9}, "the weights have 2"),
        ({"hidden_size": 10**30}, "no size"),
        ({"hidden_size": "4"}, "no size"),
        ({"vocab_size": -1}, "no size"),
    ],
)
def test_a_config_that_lies(memory: Store, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    assert said in refused(memory, make_folder(tmp_path / "mine", config=CONFIG | changes))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"config__json": b"{"}, "config.json is no JSON"),
        ({"config__json": b"[]"}, "no JSON object"),
        ({"config__json": b"[" * 100_000}, "config.json is no JSON"),
        ({"config__json": b"\xff\xfe"}, "config.json is no JSON"),
        ({"config__json": b'{"a": "' + b"x" * (4 << 20) + b'"}'}, "has more than"),
        ({"tokenizer_config__json": b'{"auto_map": {"AutoTokenizer": ["t.T", null]}}'}, "never run"),
        ({"tokenizer_config__json": b"nothing"}, "tokenizer_config.json is no JSON"),
        ({"model__safetensors": weights()[:-1]}, "model.safetensors should hold"),
        ({"model__safetensors": b"\x00" * 4}, "model.safetensors has 4 bytes"),
        ({"model__safetensors": packed(entries({"a": ("F32", [2])}), 4)}, "should hold 8 bytes"),
    ],
)
def test_a_broken_file(memory: Store, tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    assert said in refused(memory, make_folder(tmp_path / "mine", **files))


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("config.json", "There is no config.json"),
        ("tokenizer.json", "There is no tokenizer"),
        ("model.safetensors", "There is no model.safetensors"),
    ],
)
def test_a_missing_file(memory: Store, tmp_path: Path, missing: str, said: str) -> None:
    folder = make_folder(tmp_path / "mine")
    (folder / missing).unlink()
    assert said in refused(memory, folder)


def test_a_label_of_no_number_is_none(memory: Store, tmp_path: Path) -> None:
    config = CONFIG | {"id2label": {"9" * 5000: "x"}, "num_labels": 2}
    found = registered(memory, make_folder(tmp_path / "mine", config=config))
    assert found.details["head"] == "sequence classification with 2 labels"
    assert "labels" not in found.details


@pytest.mark.parametrize(
    "tensors", [{"none": ("F32", [0])}, {"bert.embeddings.position_ids": ("I64", [1, 16])}]
)
def test_weights_without_a_parameter(
    memory: Store, tmp_path: Path, tensors: dict[str, tuple[str, list[int]]]
) -> None:
    assert "1 tensors and no parameter" in refused(memory, make_folder(tmp_path / "mine", tensors=tensors))


def test_more_tensors_than_any_checkpoint_has(
    memory: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = {f"{name}__safetensors": weights({name: ("F32", [1])}) for name in "abc"}
    index = {"weight_map": {name: f"{name}.safetensors" for name in "abc"}}
    folder = make_folder(tmp_path / "mine", **shards, config=CONFIG | {"num_hidden_layers": 0})
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    monkeypatch.setattr(safetensors, "MOST_TENSORS", 2)
    assert "holds 3 tensors, over the 2 that are read" in refused(memory, folder)
    monkeypatch.setattr(safetensors, "MOST_TENSORS", 3)
    assert registered(memory, folder).parameters == 3


def test_a_pipe_is_no_card(memory: Store, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    pipe = folder / "README.md"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(CARD,))
    writer.start()  # it waits for whoever reads
    try:
        assert registered(memory, folder).license is None
    finally:
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        writer.join()
        os.close(reader)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("config.json", "There is no config.json"),
        ("tokenizer.json", "There is no tokenizer"),
        ("model.safetensors", "There is no model.safetensors"),
    ],
)
def test_a_pipe_is_no_file(memory: Store, tmp_path: Path, file: str, said: str) -> None:
    folder = make_folder(tmp_path / "mine")
    (folder / file).unlink()
    os.mkfifo(folder / file)
    assert said in refused(memory, folder)


@pytest.mark.parametrize(
    "named", ["\udcff.safetensors", "../out.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin", ""]
)
def test_an_index_cannot_lead_out_of_the_folder(memory: Store, tmp_path: Path, named: str) -> None:
    folder = make_folder(tmp_path / "mine")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": named}}))
    assert "which is no .safetensors file beside it" in refused(memory, folder)


def test_a_tensor_in_two_shards(memory: Store, tmp_path: Path) -> None:
    one = weights({"a": ("F32", [2])})
    index = json.dumps({"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}).encode()
    folder = make_folder(tmp_path / "mine", x__safetensors=one, y__safetensors=one)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_bytes(index)
    assert "Two shards hold the tensor 'a'" in refused(memory, folder)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "vocab.txt", "anything.bin"])
def test_a_link_out_of_the_roots(memory: Store, tmp_path: Path, file: str) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(weights())
    folder = make_folder(tmp_path / "roots" / "mine")
    (folder / file).unlink(missing_ok=True)
    (folder / file).symlink_to(outside)
    assert "is not under a folder that may be read" in refused(memory, folder)


def test_links_within_the_roots_are_followed(memory: Store, tmp_path: Path) -> None:
    real = make_folder(tmp_path / "blobs")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for file in real.iterdir():
        (folder / file.name).symlink_to(file)
    assert registered(memory, folder).parameters == PARAMETERS


def test_a_folder_out_of_the_roots(memory: Store, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots" / "link").symlink_to(folder)
    for path in (folder, tmp_path / "roots" / "link", tmp_path / "roots" / ".." / "mine"):
        assert "HEADSTART_ROOTS" in refused(memory, path, roots=tmp_path / "roots")
    assert "There is no folder" in refused(memory, tmp_path / "roots" / "none", roots=tmp_path / "roots")


def test_a_loop_of_links(memory: Store, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    (folder / "vocab.txt").symlink_to(folder / "merges.txt")
    (folder / "merges.txt").symlink_to(folder / "vocab.txt")
    assert "cannot be resolved" in refused(memory, folder)


def test_a_name_that_cannot_be_shown(memory: Store, tmp_path: Path) -> None:
    assert "printable" in refused(memory, make_folder(tmp_path / "mi\nne"))


def test_the_real_one(memory: Store, real_checkpoint: Path) -> None:
    found = registered(memory, real_checkpoint, name="all-MiniLM-L6-v2")
    assert (found.parameters, found.license) == (22_713_216, "apache-2.0")
    assert found.family == "nreimers/MiniLM-L6-H384-uncased"
    assert found.details["base_model_told_by"] == "config"
    assert (found.details["layers"], found.details["hidden_size"]) == (6, 384)
    assert memory.family(found.family).vanilla_id is not None


def test_the_worker_gives_it_the_same_digest(tmp_path: Path) -> None:
    from worker.checkpoints import read_folder

    folder = make_folder(tmp_path / "mine", merges__txt=b"a b")
    ours = digest_of(find_folder(folder, [tmp_path], pickles=False), lambda _: None)
    assert read_folder(folder, roots=[tmp_path], pickles=False).digest == ours
