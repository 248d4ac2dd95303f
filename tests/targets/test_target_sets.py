"""The 35 published sets, where a checkout has them beside it: they are what their README says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from making import LIMITS

from headstart.evidence.ingest import ImportLimits, run_next
from headstart.store import Store

SETS = Path(__file__).parents[3] / "shared" / "data" / "datasets"

pytestmark = pytest.mark.skipif(not SETS.is_dir(), reason="the published sets are not beside this checkout")


class Told(NamedTuple):
    """What the README says of a set."""

    pair: bool
    classes: int
    rows: dict[str, int]
    majority: float


LINE = re.compile(
    r"^\| (?P<name>\w+) \| (?P<kind>single|pair): .*? \| (?P<classes>\d+) \| (?P<sizes>\d+/\d+/\d+) \| .*?"
    r" \| .*? \| (?P<majority>0\.\d+) \|",
    re.MULTILINE,
)


def told() -> dict[str, Told]:
    found = {}
    for one in LINE.finditer((SETS / "README.md").read_text()):
        sizes = zip(("train", "validation", "test"), map(int, one["sizes"].split("/")), strict=True)
        found[one["name"]] = Told(
            one["kind"] == "pair", int(one["classes"]), dict(sizes), float(one["majority"])
        )
    return found


# The README, of these sets and others: "1-5 rows each (atis 3, sick_e 5, goemotions 2, else 1)".
SHARED_WITH_VALIDATION = {
    "banking77": 1,
    "cola": 1,
    "goemotions": 2,
    "sick_e": 5,
    "trec_coarse": 1,
    "trec_fine": 1,
}


def test_all_of_them_load_as_their_readme_says() -> None:
    expected = told()
    folders = sorted(path.name for path in SETS.iterdir() if path.is_dir())
    assert folders == sorted(expected)
    assert len(folders) == 35
    limits = ImportLimits(
        roots=(SETS,), allow_private=False, max_rows=LIMITS.max_rows, max_bytes=64 << 20, lease_seconds=60.0
    )
    store = Store("sqlite://")
    for name in folders:
        item = store.queue_import(store.create_import("target", str(SETS / name), {"name": name}).id)
        assert run_next(store, limits)
        done = store.get_import(item.id)
        assert done.error is None, (name, done.error)
        target = store.target_named(name)
        profile, its = target.profile, expected[name]
        assert profile is not None
        assert (profile["rows"], profile["pair"], target.classes) == (its.rows, its.pair, its.classes), name
        assert round(profile["balance"]["test"], 3) == its.majority, name
        overlap = {key: counts["rows"] for key, counts in profile["overlap"].items()}
        assert overlap == {
            "test_train": 0,
            "validation_train": 0,
            "test_validation": SHARED_WITH_VALIDATION.get(name, 0),
        }, name
        assert profile["dropped"] == {}, name
    store.close()
