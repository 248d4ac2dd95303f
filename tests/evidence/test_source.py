"""Sources: what they read, what they refuse, and that they cannot be led astray."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from headstart.errors import Forbidden, HeadstartError, InvalidInput, TooLarge, Unreachable
from headstart.evidence.source import (
    FolderSource,
    Missing,
    Source,
    StreamedSource,
    UploadSource,
    open_source,
)
from headstart.evidence.url_source import UrlSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Web

MEGA = 1 << 20


class FakeUploads:
    """The two verbs of the store that an upload is read by."""

    def uploads(self, import_id: int) -> tuple[str, ...]:
        return ("b.csv", "a.csv") if import_id == 7 else ()

    def read_upload(self, import_id: int, file: str) -> Iterator[bytes]:
        yield from (b"one ", b"", b"two")


def read(source: Source, name: str) -> bytes:
    with source.open(name) as stream:
        return stream.read()


def opened(source: str, **options: Any) -> StreamedSource:
    given = {"roots": (), "allow_private": False, "most_bytes": MEGA, **options}
    return open_source(source, store=FakeUploads(), import_id=7, **given)  # type: ignore[arg-type]


# -- folders


def test_a_folder_lists_and_reads_its_files(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(b"bb")
    (tmp_path / "a.csv").write_bytes(b"aa")
    (tmp_path / ".hidden").write_bytes(b"")
    (tmp_path / "deeper").mkdir()
    source = FolderSource(tmp_path, MEGA)
    assert source.names() == ("a.csv", "b.csv")
    assert read(source, "b.csv") == b"bb"
    assert source.fraction() == 1.0
    assert source.digests == {"b.csv": hashlib.sha256(b"bb").hexdigest()}


def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(b"bb")
    source = FolderSource(tmp_path / "b.csv", MEGA)
    assert source.names() == ("b.csv",)
    assert read(source, "b.csv") == b"bb"
    with pytest.raises(Missing):
        source.open("other.csv")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc/passwd", "a\0b", "a\\b", "none.csv"])
def test_a_name_that_is_no_file_is_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(Missing, match=r"no file|not the name"):
        FolderSource(tmp_path, MEGA).open(name)


def test_a_pipe_or_a_folder_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    for name in ("pipe.csv", "folder.csv"):
        with pytest.raises(Unreachable):
            FolderSource(tmp_path, MEGA).open(name)


def test_a_file_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"x" * 11)
    with pytest.raises(TooLarge, match="more than 10 bytes"):
        FolderSource(tmp_path, 10).open("a.csv")


def test_a_stream_closed_halfway_has_no_digest(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"x" * MEGA)
    source = FolderSource(tmp_path, MEGA)
    with source.open("a.csv") as stream:
        stream.read(10)
    assert source.digests == {}


# -- choosing a source


def test_paths_are_read_only_under_the_roots(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.csv").write_bytes(b"aa")
    assert read(opened(str(inside), roots=(inside,)), "a.csv") == b"aa"
    assert read(opened(str(inside / "a.csv"), roots=(inside,)), "a.csv") == b"aa"
    for path in (outside, outside / "a.csv", outside / "none", inside / ".." / "out", Path("/etc/passwd")):
        with pytest.raises(Forbidden, match="HEADSTART_ROOTS"):
            opened(str(path), roots=(inside,))
    with pytest.raises(Forbidden):
        opened(str(inside))
    with pytest.raises(Unreachable):
        opened(str(inside / "none"), roots=(inside,))


def test_links_out_of_the_roots_are_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (outside / "a.csv").write_bytes(b"secret")
    (inside / "link").symlink_to(outside)
    (inside / "a.csv").symlink_to(outside / "a.csv")
    with pytest.raises(Forbidden):
        opened(str(inside / "link"), roots=(inside,))
    with pytest.raises(Forbidden):
        opened(str(inside / "a.csv"), roots=(inside,))
    with pytest.raises(Forbidden):
        opened(str(inside), roots=(inside,)).open("a.csv")
    (inside / "loop").symlink_to(inside / "loop")
    with pytest.raises(Unreachable):
        opened(str(inside / "loop"), roots=(inside,))


def test_a_trusted_path_needs_no_root(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"aa")
    assert read(opened(str(tmp_path), trusted=True), "a.csv") == b"aa"
    with pytest.raises(Unreachable):
        opened(str(tmp_path / "none"), trusted=True)


def test_a_name_that_is_not_utf_8_is_listed_and_not_read(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.csv")).write_bytes(b"aa")
    source = FolderSource(tmp_path, MEGA)
    assert source.names() == ("\ufffd.csv",)
    with pytest.raises(InvalidInput, match=r"is not UTF-8. Rename it."):
        source.open("\ufffd.csv")
    assert source.digests == {}


def test_an_upload_is_read_from_the_store() -> None:
    source = opened("upload")
    assert isinstance(source, UploadSource)
    assert source.names() == ("a.csv", "b.csv")
    assert read(source, "a.csv") == b"one two"
    with pytest.raises(Missing):
        source.open("c.csv")


@pytest.mark.parametrize("source", ["", "a\0b", "ftp://example.org/a.csv", "file:///etc/passwd", "http://"])
def test_what_is_no_source_is_refused(source: str) -> None:
    with pytest.raises(InvalidInput):
        opened(source)


def test_a_name_too_long_is_an_error_for_people() -> None:
    with pytest.raises(HeadstartError):
        opened("x" * 100_000, roots=(Path("/"),))


# -- gzip


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv"])
def test_gzip_is_unpacked_by_name_or_magic(tmp_path: Path, name: str) -> None:
    packed = gzip.compress(b"hello" * 1000)
    (tmp_path / name).write_bytes(packed)
    source = FolderSource(tmp_path, MEGA)
    assert read(source, name) == b"hello" * 1000
    assert source.digests[name] == hashlib.sha256(packed).hexdigest()


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-9], lambda b: b[:50] + bytes([b[50] ^ 1]) + b[51:], lambda _: b"plain"]
)
def test_broken_gzip_is_an_error_for_people(tmp_path: Path, spoil: Any) -> None:
    (tmp_path / "a.csv.gz").write_bytes(spoil(gzip.compress(os.urandom(1000))))
    with pytest.raises(InvalidInput, match="not a whole gzip file"):
        read(FolderSource(tmp_path, MEGA), "a.csv.gz")


def test_gzip_may_not_expand_beyond_the_limits(tmp_path: Path) -> None:
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"\0" * (8 * MEGA)))
    (tmp_path / "large.gz").write_bytes(gzip.compress(b"".join(b"%d\n" % i for i in range(200_000))))
    with pytest.raises(TooLarge, match="decompressed"):
        read(FolderSource(tmp_path, MEGA), "large.gz")
    with pytest.raises(TooLarge, match="200 times"):
        read(FolderSource(tmp_path, 99 * MEGA), "bomb.gz")


# -- URLs


def test_a_base_url_serves_files_by_name(web: Web) -> None:
    web.serve("/results/a%20b.csv", b"aa")
    source = opened(f"{web.url}/results/", allow_private=True)
    assert source.names() == ()
    assert read(source, "a b.csv") == b"aa"
    assert source.fraction() == 1.0
    with pytest.raises(Missing, match="404"):
        source.open("none.csv")


def test_a_file_url_is_one_file(web: Web) -> None:
    web.serve("/x/a.csv?token=1", gzip.compress(b"aa"))
    source = opened(f"{web.url}/x/a.csv?token=1", allow_private=True)
    assert source.names() == ("a.csv",)
    assert read(source, "a.csv") == b"aa"
    with pytest.raises(Missing):
        source.open("b.csv")


def test_private_urls_are_refused(web: Web) -> None:
    web.serve("/a.csv", b"aa")
    for host in ("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"):
        with pytest.raises(Forbidden, match=r"not a public address.*upload the files"):
            opened(f"http://{host}:{web.port}/a.csv").open("a.csv")
    assert web.seen == []


def test_the_starter_url_may_be_private(web: Web) -> None:
    web.serve("/a.csv", b"aa")
    assert read(opened(f"{web.url}/a.csv", trusted=True), "a.csv") == b"aa"


def answering(addresses: list[str]) -> Any:
    return lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 80)) for a in addresses]


def test_a_name_is_looked_up_once_and_kept_as_host(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look-up could give another address than the one that was checked."""
    web.serve("/a.csv", b"aa")
    asked: list[str] = []
    really = socket.getaddrinfo

    def look_up(host: str, *rest: Any, **options: Any) -> Any:
        asked.append(str(host))
        return really("127.0.0.1" if host == "rebinding.test" else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    source = UrlSource(f"http://rebinding.test:{web.port}/a.csv", MEGA, allow_private=True)
    assert read(source, "a.csv") == b"aa"
    assert asked.count("rebinding.test") == 1
    assert web.seen == [("/a.csv", f"rebinding.test:{web.port}")]


def test_the_next_address_is_tried(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.serve("/a.csv", b"aa")
    really = socket.getaddrinfo

    def look_up(host: str, *rest: Any, **options: Any) -> Any:
        if host == "two.test":
            return answering(["127.0.0.9", "127.0.0.1"])()  # nobody listens on the first
        return really(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert read(UrlSource(f"http://two.test:{web.port}/a.csv", MEGA, allow_private=True), "a.csv") == b"aa"


def test_redirects_are_followed_and_each_hop_is_checked(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.serve("/b.csv", b"bb")
    web.redirect("/a.csv", "/b.csv")
    web.redirect("/loop.csv", "/loop.csv")
    web.redirect("/file.csv", "file:///etc/passwd")
    web.redirect("/away.csv", "http://10.0.0.1/a.csv")
    assert read(UrlSource(f"{web.url}/a.csv", MEGA, allow_private=True), "a.csv") == b"bb"
    with pytest.raises(Unreachable, match="more than 5 times"):
        UrlSource(f"{web.url}/loop.csv", MEGA, allow_private=True).open("loop.csv")
    with pytest.raises(Unreachable, match="no address"):
        UrlSource(f"{web.url}/file.csv", MEGA, allow_private=True).open("file.csv")
    loopback_only = ip_address("127.0.0.1")
    monkeypatch.setattr("headstart.addresses.is_public", lambda a: a == loopback_only)
    with pytest.raises(Forbidden, match=r"10\.0\.0\.1"):
        UrlSource(f"{web.url}/away.csv", MEGA, allow_private=False).open("away.csv")


def test_limits_hold_with_and_without_a_stated_length(web: Web) -> None:
    web.serve("/a.csv", b"x" * 1000)
    web.serve("/b.csv", b"x" * 1000, length=None)
    web.serve("/short.csv", b"x", length=100)
    source = UrlSource(web.url, 999, allow_private=True)
    with pytest.raises(TooLarge):
        source.open("a.csv")
    with pytest.raises(TooLarge):
        read(source, "b.csv")
    with pytest.raises(Unreachable, match="broke off"):
        read(source, "short.csv")


def test_other_answers_are_unreachable_in_a_sentence(web: Web) -> None:
    web.answers["/a.csv"] = lambda request: request.send_error(503)
    with pytest.raises(Unreachable, match="status 503 instead of 200") as caught:
        UrlSource(web.url, MEGA, allow_private=True).open("a.csv")
    assert not isinstance(caught.value, Missing)


def test_a_host_that_is_not_there_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable, match="cannot be read"):
        UrlSource(f"http://127.0.0.1:{port}/a.csv", MEGA, allow_private=True).open("a.csv")
    with pytest.raises(Unreachable, match="cannot be found"):
        UrlSource("http://nowhere.invalid/a.csv", MEGA, allow_private=True).open("a.csv")


def test_passwords_in_urls_are_refused() -> None:
    with pytest.raises(InvalidInput, match="password") as caught:
        opened("https://me:hush@example.org/a.csv")
    assert "hush" not in str(caught.value)
