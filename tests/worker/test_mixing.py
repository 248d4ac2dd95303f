"""Mixtures of small checkpoints: the sums to the bit, what may be mixed, and what is left behind."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from headstart.checkpoints.safetensors import read_header
from headstart.failures import (
    CheckpointNotFound,
    Interrupted,
    JobFailure,
    NonFinite,
    NotApplicable,
    Refused,
)
from tests.worker.small_family import files_of, make_family, rewrite, trio
from tests.worker.small_rows import ignore
from tests.worker.tiny_checkpoints import ARCHITECTURES, make_tiny
from worker import mixing, pieces
from worker.bodies import load_body
from worker.checkpoints import read_folder
from worker.mixing import header, write_mixture

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


WORDS = "embeddings.word_embeddings.weight"
THIRDS = (1 / 3, 1 / 3, 1 / 3)
HALVES = (0.5, 0.5)


def in_dtype(folder: Path, dtype: torch.dtype) -> Path:
    return rewrite(folder, lambda tensors: tensors.update({n: t.to(dtype) for n, t in tensors.items()}))


def mixed(
    members: Sequence[Path], weights: Sequence[float], base: Path, folder: Path
) -> dict[str, torch.Tensor]:
    folder.mkdir()
    write_mixture([files_of(one) for one in members], weights, folder, base=files_of(base), report=ignore)
    return load_file(folder / "model.safetensors")


def bare(folder: Path) -> dict[str, torch.Tensor]:
    """The body's tensors by the names of a bare body."""
    return {name.removeprefix("bert."): one for name, one in load_file(folder / "model.safetensors").items()}


def exact(values: Sequence[torch.Tensor], weights: Sequence[Fraction]) -> np.ndarray:
    """The weighted sum in rational numbers, rounded to fp32: fp64 in between is 29 bits finer."""
    columns = zip(*(one.to(torch.float64).flatten().tolist() for one in values), strict=True)
    sums = [
        float(sum((Fraction(x) * w for x, w in zip(column, weights, strict=True)), Fraction()))
        for column in columns
    ]
    return np.array(sums).astype(np.float32)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family(tmp_path_factory.mktemp("family"))


@pytest.fixture
def own(family: Path, tmp_path: Path) -> Path:
    """The family's folders again, to be changed."""
    shutil.copytree(family, tmp_path / "own")
    return tmp_path / "own"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_three_equal_weights_give_the_exact_mean_to_the_bit(
    own: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    members = trio(own)
    in_dtype(members[1], dtype)
    in_dtype(members[2], dtype)
    found = mixed(members, THIRDS, own / "vanilla", tmp_path / "mean")
    base = load_file(own / "vanilla" / "model.safetensors")
    assert set(found) == {name for name in base if name.startswith("bert.")}
    bodies = [bare(one) for one in members]
    for name, values in found.items():
        theirs = [body[name.removeprefix("bert.")] for body in bodies]
        assert values.dtype == torch.float32
        assert values.shape == base[name].shape
        np.testing.assert_array_equal(values.flatten().numpy(), exact(theirs, [Fraction(1, 3)] * 3))


def test_the_order_of_the_members_changes_no_bit(family: Path, tmp_path: Path) -> None:
    one, two, three = trio(family)
    first = mixed([one, two, three], THIRDS, family / "vanilla", tmp_path / "a")
    other = mixed([three, one, two], THIRDS, family / "vanilla", tmp_path / "b")
    assert all(torch.equal(values, other[name]) for name, values in first.items())
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


@pytest.mark.parametrize("weights", [(0.25, 0.75), (1.5, -0.5), (-0.25, 1.25), (0.1, 0.9)])
def test_a_point_on_a_line_and_beyond_it(family: Path, tmp_path: Path, weights: tuple[float, float]) -> None:
    members = trio(family)[:2]
    found = mixed(members, weights, family / "vanilla", tmp_path / "mix")
    one, two = map(bare, members)
    for name, values in found.items():
        plain = name.removeprefix("bert.")
        expected = weights[0] * one[plain].double() + weights[1] * two[plain].double()
        assert torch.equal(values, expected.float())


def test_weights_with_too_few_decimals_give_the_mean(family: Path, tmp_path: Path) -> None:
    found = mixed(trio(family)[:2], (0.3, 0.7000009), family / "vanilla", tmp_path / "mix")
    one, two = (bare(member)[WORDS] for member in trio(family)[:2])
    expected = exact([one, two], [Fraction(3_000_000, 10_000_009), Fraction(7_000_009, 10_000_009)])
    np.testing.assert_allclose(found[f"bert.{WORDS}"].flatten().numpy(), expected, rtol=2e-7)


def test_a_member_of_weight_0_is_not_read_and_changes_nothing(own: Path, tmp_path: Path) -> None:
    one, two, _ = trio(own)
    plain = mixed([one, two], HALVES, own / "vanilla", tmp_path / "two")
    (own / "m3" / "model.safetensors").write_bytes(b"broken")
    members = [files_of(folder) for folder in trio(own)]
    (tmp_path / "three").mkdir()
    write_mixture(members, (0.5, 0.5, 0.0), tmp_path / "three", base=files_of(own / "vanilla"), report=ignore)
    found = load_file(tmp_path / "three" / "model.safetensors")
    assert all(torch.equal(values, plain[name]) for name, values in found.items())


def test_pieces_within_a_tensor_are_put_together(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = mixed(trio(family), (0.2, 0.3, 0.5), family / "vanilla", tmp_path / "whole")
    monkeypatch.setattr(mixing, "PIECE", 7)
    seen: list[float] = []
    (tmp_path / "parts").mkdir()
    facts = write_mixture(
        [files_of(one) for one in trio(family)],
        (0.2, 0.3, 0.5),
        tmp_path / "parts",
        base=files_of(family / "vanilla"),
        report=lambda share, *_: seen.append(share),
    )
    parts = load_file(tmp_path / "parts" / "model.safetensors")
    assert all(torch.equal(values, parts[name]) for name, values in whole.items())
    assert facts.elements == sum(values.numel() for values in whole.values())
    assert (seen[0], seen[-1], seen == sorted(seen)) == (0.0, 1.0, True)
    assert facts.left_out == tuple(
        name for name in sorted(load_file(family / "vanilla/model.safetensors")) if "cls." in name
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_mixture_of_any_architecture_is_loaded_as_a_body(tmp_path: Path, architecture: str) -> None:
    for number in range(3):
        make_tiny(architecture, tmp_path / str(number), seed=number)
    members = [tmp_path / "1", tmp_path / "2"]
    mixed(members, HALVES, tmp_path / "0", tmp_path / "mix")
    body = load_body(files_of(tmp_path / "mix"), torch.device("cpu"), torch.float32, with_head=True)
    one, two = (
        load_body(files_of(each), torch.device("cpu"), torch.float32, with_head=True).backbone.state_dict()
        for each in members
    )
    for name, values in body.backbone.state_dict().items():
        if values.is_floating_point() and "pooler" not in name:
            expected = (one[name].double() + two[name].double()) / 2
            assert torch.equal(values, expected.float()), name
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / "mix" / name).read_bytes() == (tmp_path / "0" / name).read_bytes()
    transformers.AutoModel.from_pretrained(tmp_path / "mix")


def test_shards_and_prefixes_and_old_names_and_the_order_of_tensors_change_nothing(
    own: Path, tmp_path: Path
) -> None:
    plain = mixed(trio(own), THIRDS, own / "vanilla", tmp_path / "plain")
    one, two, three = trio(own)
    model = transformers.AutoModel.from_pretrained(one)  # bare: no prefix
    model.save_pretrained(one, max_shard_size="20KB")
    (one / "model.safetensors").unlink(missing_ok=True)
    assert len(list(one.glob("model-*.safetensors"))) > 2

    def old_names(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "LayerNorm" in name]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
            tensors[old] = tensors.pop(name)

    rewrite(two, old_names)
    reorder(three / "model.safetensors")
    found = mixed(trio(own), THIRDS, own / "vanilla", tmp_path / "found")
    assert all(torch.equal(values, found[name]) for name, values in plain.items())


def reorder(path: Path) -> None:
    """The same tensors, last first, in a file written by hand."""
    tensors = dict(reversed(load_file(path).items()))
    data = b"".join(one.numpy().tobytes() for one in tensors.values())
    path.write_bytes(header({name: tuple(one.shape) for name, one in tensors.items()}) + data)


def test_a_header_is_read_as_it_was_written(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {"b": (2, 3), "a é": (1,), "none": (0, 4), "one": ()}
    path = tmp_path / "x.safetensors"
    path.write_bytes(header(shapes) + np.arange(8, dtype=np.float32).tobytes())
    with path.open("rb") as file:
        told = read_header(file, path.stat().st_size, path.name)
    assert told.data_at % 8 == 0
    assert {name: one.shape for name, one in told.tensors.items()} == shapes
    assert load_file(path)["b"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_tied_tensors_are_there_once(tmp_path: Path) -> None:
    for number in range(3):
        make_tiny("t5", tmp_path / str(number), seed=number)
    for number in (1, 2):  # as an encoder alone is saved, whose table has another name
        rewrite(
            tmp_path / str(number),
            lambda tensors: tensors.update({"encoder.embed_tokens.weight": tensors.pop("shared.weight")}),
        )
    found = mixed([tmp_path / "1", tmp_path / "2"], HALVES, tmp_path / "0", tmp_path / "mix")
    tables = [
        load_file(tmp_path / str(n) / "model.safetensors")["encoder.embed_tokens.weight"] for n in (1, 2)
    ]
    assert torch.equal(found["shared.weight"], ((tables[0].double() + tables[1].double()) / 2).float())
    assert "encoder.embed_tokens.weight" not in found
    assert not any(name.startswith(("decoder.", "lm_head")) for name in found)


def test_of_a_pooler_that_a_member_lacks_the_vanillas_stands_for_it(own: Path, tmp_path: Path) -> None:
    transformers.AutoModel.from_pretrained(own / "m3").save_pretrained(own / "vanilla")  # with a pooler
    one, two, _ = trio(own)
    rewrite(two, lambda tensors: [tensors.pop(name) for name in list(tensors) if "pooler" in name])
    (tmp_path / "mix").mkdir()
    facts = write_mixture(
        [files_of(one), files_of(two)],
        HALVES,
        tmp_path / "mix",
        base=files_of(own / "vanilla"),
        report=ignore,
        names=["me/one", "me/two"],
    )
    assert facts.filled == (("me/two", "pooler.dense.weight"), ("me/two", "pooler.dense.bias"))
    found = load_file(tmp_path / "mix" / "model.safetensors")
    base = load_file(own / "vanilla" / "model.safetensors")
    expected = (bare(one)["pooler.dense.bias"].double() + base["pooler.dense.bias"].double()) / 2
    assert torch.equal(found["pooler.dense.bias"], expected.float())


def test_members_stored_as_pickles_are_mixed_where_those_are_allowed(own: Path, tmp_path: Path) -> None:
    plain = mixed(trio(own)[:2], HALVES, own / "vanilla", tmp_path / "plain")
    for one in trio(own)[:2]:
        torch.save(load_file(one / "model.safetensors"), one / "pytorch_model.bin")
        (one / "model.safetensors").unlink()
    members = [read_folder(one, roots=[own], pickles=True) for one in trio(own)[:2]]
    (tmp_path / "mix").mkdir()
    write_mixture(members, HALVES, tmp_path / "mix", base=files_of(own / "vanilla"), report=ignore)
    found = load_file(tmp_path / "mix" / "model.safetensors")
    assert all(torch.equal(values, found[name]) for name, values in plain.items())


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def more_rows(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] += 2
    (folder / "config.json").write_text(json.dumps(config))
    rewrite(
        folder,
        lambda tensors: tensors.update({f"bert.{WORDS}": torch.zeros(config["vocab_size"], 32)}),
    )


def other_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    vocabulary = told["model"]["vocab"]
    names = list(vocabulary)
    told["model"]["vocab"] = dict(zip(reversed(names), vocabulary.values(), strict=True))
    path.write_text(json.dumps(told))


def fewer_heads(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 2}))


def not_a_number(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors[f"bert.{WORDS}"][3].fill_(float("nan")))


def quantised(folder: Path) -> None:
    name = "bert.encoder.layer.0.output.dense.bias"
    rewrite(folder, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))


@pytest.mark.parametrize(
    ("spoil", "failure", "told"),
    [
        (cut_short, Refused, r"'me/bad': model\.safetensors is broken"),
        (
            more_rows,
            NotApplicable,
            r"'me/bad' has the tensor embeddings\.word_embeddings\.weight in the shape \[",
        ),
        (other_tokens, NotApplicable, r"'me/bad' has another vocabulary: .* mean the same token"),
        (fewer_heads, NotApplicable, r"'me/bad' has the num_attention_heads 2 .*, and the vanilla 4"),
        (
            lambda folder: make_tiny("electra", folder),
            NotApplicable,
            r"'me/bad' has the model_type 'electra'",
        ),
        (
            lambda folder: make_tiny("bert", folder, num_hidden_layers=2),
            NotApplicable,
            "'me/bad' has the num_hidden_layers 2",
        ),
        (not_a_number, NonFinite, r"word_embeddings\.weight of 'me/bad' holds NaN"),
        (quantised, NotApplicable, r"'me/bad': The tensor bert\..*\.bias is stored as I8"),
        (lambda folder: (folder / "config.json").write_text("{"), Refused, r"'me/bad': config\.json"),
    ],
)
def test_a_member_that_does_not_fit_is_named(
    own: Path, tmp_path: Path, spoil: Callable[[Path], Any], failure: type[JobFailure], told: str
) -> None:
    spoil(own / "m2")
    (tmp_path / "mix").mkdir()
    with pytest.raises(failure, match=told):
        write_mixture(
            [files_of(own / "m1"), files_of(own / "m2")],
            HALVES,
            tmp_path / "mix",
            base=files_of(own / "vanilla"),
            report=ignore,
            names=["me/good", "me/bad"],
        )


def test_a_sum_too_large_for_fp32_is_told(own: Path, tmp_path: Path) -> None:
    for member in trio(own)[:2]:
        rewrite(member, lambda tensors: tensors[f"bert.{WORDS}"].fill_(3e38))
    rewrite(own / "m2", lambda tensors: tensors[f"bert.{WORDS}"].fill_(-3e38))
    with pytest.raises(NonFinite, match=r"The weighted sum of embeddings\.word.* too large"):
        mixed(trio(own)[:2], (1.5, -0.5), own / "vanilla", tmp_path / "mix")


def test_a_member_that_goes_or_changes_meanwhile_is_told(own: Path, tmp_path: Path) -> None:
    members = [files_of(own / "m1"), files_of(own / "m2")]
    base = files_of(own / "vanilla")

    def then(act: Callable[[], Any]) -> Callable[..., None]:
        return lambda share, *_: act() if 0 < share < 0.5 else None

    path = own / "m2" / "model.safetensors"
    with pytest.raises(Interrupted, match=r"'.*m2': model\.safetensors in .* has changed while"):
        write_mixture(
            members, HALVES, tmp_path, base=base, report=then(lambda: path.write_bytes(b"x" * 10)),
            names=["m1", "m2"],
        )  # fmt: skip
    path.unlink()
    with pytest.raises(CheckpointNotFound, match=r"'m2': model\.safetensors is no longer in"):
        write_mixture(members, HALVES, tmp_path, base=base, report=ignore)


def test_a_vanilla_whose_body_is_not_whole_is_told(own: Path, tmp_path: Path) -> None:
    rewrite(own / "vanilla", lambda tensors: tensors.pop("bert.encoder.layer.1.output.dense.bias"))
    with pytest.raises(
        NotApplicable, match=r"no tensor for encoder\.layer\.1\.output\.dense\.bias of a bert"
    ):
        mixed(trio(own)[:2], HALVES, own / "vanilla", tmp_path / "mix")


def test_names_are_those_of_a_bare_body_in_its_order(family: Path) -> None:
    bodies = [pieces.Body(files_of(family / name)) for name in ("vanilla", "m1")]
    assert list(bodies[0].shapes) == [name for name in bodies[1].shapes if "pooler" not in name]
    assert next(iter(bodies[0].shapes)) == WORDS
    assert bodies[1].heads == ("classifier.bias", "classifier.weight")
