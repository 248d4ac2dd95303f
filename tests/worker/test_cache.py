from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headstart.failures import Interrupted
from headstart.workbench import Cancelled
from worker.cache import Cache

PLENTY = 1 << 30
KEY = {"checkpoint": "c", "rows": 3}


def fill(cache: Cache, key: dict, parts: dict[str, bytes], **facts: object) -> None:
    entry = cache.open("things", key)
    with entry.making(never) as making:
        for name, data in parts.items():
            (making.folder / name).write_bytes(data)
        making.keep(facts)
    entry.close()


def never() -> None:
    raise AssertionError("waited, and nobody else is there")


def stop() -> None:
    raise Cancelled


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", PLENTY)


def test_what_is_kept_is_found_again_by_an_equal_key(cache: Cache) -> None:
    fill(cache, KEY, {"x": b"abc"}, rows=3)
    entry = Cache(cache.root, PLENTY).open("things", dict(reversed(KEY.items())))
    assert entry.facts("x") == {"rows": 3}
    assert entry.path("x").read_bytes() == b"abc"
    assert entry.facts("y") is None
    for kind, key in (("others", KEY), ("things", KEY | {"rows": 4})):
        assert cache.open(kind, key).facts("x") is None


def test_an_entry_grows_part_by_part(cache: Cache) -> None:
    fill(cache, KEY, {"x": b"abc"}, layer=1)
    reader = cache.open("things", KEY)
    fill(cache, KEY, {"y": b"d"}, layer=2)
    assert (reader.facts("x"), reader.facts("y")) == ({"layer": 1}, {"layer": 2})


@pytest.mark.parametrize("broken", [b"ab", b"abX", b"abcd", b""])
def test_a_part_that_is_not_what_was_written_is_missing_until_made_anew(cache: Cache, broken: bytes) -> None:
    fill(cache, KEY, {"x": b"abc", "y": b"fine"})
    entry = cache.open("things", KEY)
    entry.path("x").write_bytes(broken)
    assert entry.facts("x") is None
    assert entry.facts("y") == {}
    fill(cache, KEY, {"x": b"abc"}, again=True)
    assert entry.facts("x") == {"again": True}


@pytest.mark.parametrize("list_of_parts", [b"", b"{", b"[1]", b"\xff"])
def test_an_entry_whose_list_of_parts_is_broken_is_empty(cache: Cache, list_of_parts: bytes) -> None:
    fill(cache, KEY, {"x": b"abc"})
    entry = cache.open("things", KEY)
    (entry.folder / "parts.json").write_bytes(list_of_parts)
    assert entry.facts("x") is None


def test_what_fails_half_way_leaves_nothing(cache: Cache) -> None:
    entry = cache.open("things", KEY)

    def fail() -> None:
        with entry.making(never) as making:
            (making.folder / "x").write_bytes(b"half")
            raise Cancelled

    with pytest.raises(Cancelled):
        fail()
    assert entry.facts("x") is None
    assert not list(entry.folder.glob("making-*"))


MAKE_AND_HANG = """
import sys, time
from pathlib import Path
from worker.cache import Cache
entry = Cache(Path(sys.argv[1]), 1 << 30).open("things", {"checkpoint": "c", "rows": 3})
with entry.making(lambda: None) as making:
    (making.folder / "x").write_bytes(b"half")
    print("making", flush=True)
    time.sleep(120)
"""


def test_another_process_waits_for_the_maker_and_a_killed_one_leaves_nothing_to_be_read(cache: Cache) -> None:
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKE_AND_HANG, str(cache.root)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "making\n"
        entry = cache.open("things", KEY)
        with pytest.raises(Cancelled), entry.making(stop):
            pass  # cancelled while it waits
        waited = []

        def kill() -> None:
            waited.append(entry.facts("x"))
            maker.send_signal(signal.SIGKILL)

        with entry.making(kill) as making:
            assert waited
            assert set(waited) == {None}
            assert entry.facts("x") is None
            assert list(entry.folder.glob("making-*")) == [making.folder]
    finally:
        maker.kill()
        maker.communicate()


def test_eviction_takes_the_least_recently_opened_first_and_none_that_is_open(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 2500)
    for number in range(3):
        fill(cache, {"n": number}, {"x": b"x" * 700})
        os.utime(locks(cache, number), (number, number))
    old = cache.open("things", {"n": 0})  # and held
    cache.open("things", {"n": 1}).close()  # used again
    fill(cache, {"n": 3}, {"x": b"x" * 700})
    assert [cache.open("things", {"n": n}).facts("x") is not None for n in range(4)] == [
        True,
        True,
        False,
        True,
    ]
    tight = Cache(tmp_path, 0)
    tight.evict()
    assert old.facts("x") == {}
    assert old.path("x").exists()
    old.close()
    tight.evict()
    assert not list(tmp_path.glob("*/*/x"))
    assert cache.open("things", {"n": 0}).facts("x") is None


def test_an_entry_nobody_refers_to_may_be_evicted(tmp_path: Path) -> None:
    fill(Cache(tmp_path, PLENTY), KEY, {"x": b"abc"})
    cache = Cache(tmp_path, 0)
    entry = cache.open("things", KEY)
    assert cache.evict() == 0
    del entry
    gc.collect()
    assert cache.evict() == 1


def test_a_full_disk_is_told_in_a_sentence(cache: Cache) -> None:
    entry = cache.open("things", KEY)
    with pytest.raises(Interrupted, match="No space left on device") as told, entry.making(never):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "limit of the cache" in told.value.remedy
    with pytest.raises(FileNotFoundError), entry.making(never):
        raise FileNotFoundError  # of anything else


def locks(cache: Cache, number: int) -> Path:
    return cache.open("things", {"n": number}).folder / "in-use"
