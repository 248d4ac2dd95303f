from __future__ import annotations

from typing import Any

import pytest

from headstart.checkpoints.lineage import Base, Lineage, base_of, lineage_of, same_name
from headstart.checkpoints.place import Place, is_hub_id, place_of, why_no_weights
from headstart.entities import Checkpoint

CARD_BASE = Base("roberta-base", "card")


def checkpoint(name: str, family: str = "f", revision: str = "", **details: Any) -> Checkpoint:
    return Checkpoint(
        id=1,
        family=family,
        name=name,
        revision=revision,
        is_vanilla=False,
        parameters=None,
        license=None,
        details=details,
    )


def lineage(
    name: str = "me/mine",
    base: Base | None = None,
    *,
    family: str | None = None,
    is_vanilla: bool = False,
    families: tuple[str, ...] = (),
    known: tuple[Checkpoint, ...] = (),
) -> Lineage:
    return lineage_of(
        name,
        base,
        family=family,
        is_vanilla=is_vanilla,
        families=families,
        named=lambda wanted: [one for one in known if one.name == wanted],
    )


def test_what_was_given_goes_before_all_else() -> None:
    held = (checkpoint("me/mine", "other"),)
    assert lineage(base=CARD_BASE, family="f", known=held) == Lineage("f", is_vanilla=False)
    assert lineage(base=CARD_BASE, family="f", is_vanilla=True) == Lineage("f", is_vanilla=True)
    assert lineage("F", base=CARD_BASE, family="f").is_vanilla


def test_a_name_that_is_known_stays_in_its_family() -> None:
    assert lineage(base=CARD_BASE, known=(checkpoint("me/mine", "f"),)).family == "f"
    two = (checkpoint("me/mine", "f"), checkpoint("me/mine", "g"))
    assert lineage(base=CARD_BASE, known=two).family == "roberta-base"


def test_its_base_names_the_family_and_is_its_vanilla() -> None:
    assert lineage(base=CARD_BASE) == Lineage("roberta-base", is_vanilla=False, vanilla="roberta-base")


def test_a_family_that_is_there_needs_no_vanilla_from_us() -> None:
    known = Lineage("roberta-base", is_vanilla=False)
    assert lineage(base=CARD_BASE, families=("roberta-base",)) == known
    assert lineage(base=Base("FacebookAI/roberta-base", "card"), families=("roberta-base",)) == known
    assert lineage(base=Base("someone/roberta-base", "card"), families=("roberta-base",)).family == (
        "someone/roberta-base"
    )


def test_a_base_that_is_a_finetune_itself_leads_to_its_family() -> None:
    base = Base("textattack/roberta-base-MNLI", "card")
    held = (checkpoint("textattack/roberta-base-MNLI", "roberta-base"),)
    assert lineage(base=base, known=held) == Lineage("roberta-base", is_vanilla=False)


def test_without_a_base_it_is_the_vanilla_of_its_own_family() -> None:
    assert lineage() == Lineage("me/mine", is_vanilla=True)
    assert lineage(base=CARD_BASE, is_vanilla=True) == Lineage("me/mine", is_vanilla=True)
    assert lineage("FacebookAI/roberta-base", families=("roberta-base",)).family == "roberta-base"
    ambiguous = ("roberta-base", "facebookai/Roberta-Base")
    assert lineage("FacebookAI/roberta-base", families=ambiguous).family == "FacebookAI/roberta-base"


@pytest.mark.parametrize(
    ("card", "hint", "base"),
    [
        (["roberta-base"], "me/other", CARD_BASE),
        (["roberta-base", "roberta-base"], None, CARD_BASE),
        (["a/x", "b/y"], "me/other", None),  # a merge
        (["me/mine"], None, None),
        (["../x"], None, None),
        ([], "roberta-base", Base("roberta-base", "config")),
        ([], "owner/name", Base("owner/name", "config")),
        ([], "name", None),
        ([], "me/mine", None),
        ([], "/home/me/model", None),
        ([], "./model", None),
        ([], "results/checkpoint", None),
        ([], "my-run/checkpoint-500", None),
        ([], "a/b/c", None),
        ([], "model", None),
        ([], "checkpoint-500", None),
        ([], "", None),
        ([], 7, None),
    ],
)
def test_the_card_goes_before_the_config_and_a_path_names_nothing(
    card: list[str], hint: Any, base: Base | None
) -> None:
    known = ("roberta-base", "model", "checkpoint-500", "me/mine")
    found = base_of("me/mine", {"base_model": card}, {"_name_or_path": hint}, is_known=known.__contains__)
    assert found == base


def test_a_base_may_be_held_as_the_hub_spells_it() -> None:
    for name, held in (
        ("roberta-base", "FacebookAI/roberta-base"),
        ("FacebookAI/roberta-base", "roberta-base"),
    ):
        known = (checkpoint(held, "mine"),)
        assert lineage(base=Base(name, "config"), known=known) == Lineage("mine", is_vanilla=False)
        exact = (*known, checkpoint(name, "other"))
        assert lineage(base=Base(name, "config"), known=exact).family == "other"


def test_names_that_the_hub_filed_under_an_owner_are_the_same() -> None:
    assert same_name("bert-base-uncased", "google-bert/bert-base-uncased")
    assert same_name("Roberta-Base", "FacebookAI/roberta-base")
    assert not same_name("bert-base-uncased", "me/bert-base-uncased")
    assert not same_name("google-bert/x", "google-bert/y")


@pytest.mark.parametrize("name", ["gpt2", "owner/name", "a.b/c_d-e", "x" * 96])
def test_hub_ids(name: str) -> None:
    assert is_hub_id(name)
    assert why_no_weights(checkpoint(name)) is None


@pytest.mark.parametrize(
    "name", ["", "a b", "a/b/c", "/a", "./a", "a/", "x" * 97, "é", "a--b", "a..b", "a.git", "a\n"]
)
def test_no_hub_ids(name: str) -> None:
    assert not is_hub_id(name)


def test_where_weights_are_looked_for() -> None:
    assert place_of(checkpoint("a/b", revision="c1")) == Place("hub", "a/b", "c1")
    assert place_of(checkpoint("/data/x")) == Place("folder", "/data/x", "")
    folder = checkpoint("mine", source="folder", path="/data/x", revision_="")
    assert place_of(folder) == Place("folder", "/data/x", "")
    completed = Checkpoint(
        id=1,
        family="f",
        name="roberta-base",
        revision="",
        is_vanilla=True,
        parameters=None,
        license=None,
        details={"source": "hub", "hub_id": "FacebookAI/roberta-base", "revision": "c2"},
    )
    assert place_of(completed) == Place("hub", "FacebookAI/roberta-base", "c2")


def test_a_name_that_leads_nowhere_is_said() -> None:
    assert "'my best run (3)'" in (why_no_weights(checkpoint("my best run (3)")) or "")
    assert why_no_weights(checkpoint("my best run (3)", source="folder", path="/x")) is None
    assert why_no_weights(checkpoint("/data/x")) is None
