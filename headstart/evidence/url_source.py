"""Files behind an http(s) address, fetched without trusting where the address leads.

Every connection goes to a checked address (`headstart.addresses`). Redirects are followed by hand, and each
hop is checked the same way.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx

from headstart.addresses import http_url, pinned, reason
from headstart.errors import Forbidden, InvalidInput, TooLarge, Unreachable
from headstart.evidence.source import Missing, StreamedSource
from headstart.evidence.streams import RawFile

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_REDIRECTS = 5
CONNECT_SECONDS = 10.0
SILENT_SECONDS = 30.0  # longest wait for the next bytes
MOST_SECONDS = 900.0  # for a whole file, however steadily it drips
FILE_ENDINGS = (".csv", ".jsonl", ".ndjson", ".json", ".parquet", ".gz")


class UrlSource(StreamedSource):
    """The file behind a URL, or the files under a base URL (which cannot be listed).

    A URL is that of a single file when its path ends in one of FILE_ENDINGS.
    """

    def __init__(self, url: str, most_bytes: int, *, allow_private: bool) -> None:
        self._url = _checked_url(url)
        super().__init__(str(self._url), most_bytes)
        self._allow_private = allow_private
        last = self._url.path.rpartition("/")[2]
        self._file = last if last.lower().endswith(FILE_ENDINGS) else None

    def names(self) -> tuple[str, ...]:
        """See Source."""
        return () if self._file is None else (self._file,)

    def _read(self, name: str) -> RawFile:
        if self._file is None:
            base = str(self._url.copy_with(query=None, fragment=None)).rstrip("/")
            url = httpx.URL(f"{base}/{quote(name)}")
        elif name == self._file:
            url = self._url
        else:
            raise Missing(f"There is no file {name!r} at {self.origin}, which is a single file.")
        client = httpx.Client(
            verify=httpx.create_ssl_context(),
            trust_env=False,
            timeout=httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS),
        )
        try:
            response = self._follow(client, url)
            _check_status(response, url)
        except BaseException:
            client.close()
            raise
        size = response.headers.get("content-length", "")

        def close() -> None:
            response.close()
            client.close()

        return RawFile(_body(response, url), close, int(size) if size.isdecimal() else None)

    def _follow(self, client: httpx.Client, url: httpx.URL) -> httpx.Response:
        for _ in range(MOST_REDIRECTS + 1):
            response = self._get(client, url)
            if response.status_code not in {301, 302, 303, 307, 308}:
                return response
            response.close()
            location = response.headers.get("location", "")
            try:
                following = _checked_url(str(url.join(location)))
            except (httpx.InvalidURL, InvalidInput, ValueError) as e:
                raise Unreachable(f"{url} redirects to {location[:200]!r}, which is no address.") from e
            if url.scheme == "https" and following.scheme != "https":
                raise Forbidden(f"{url} redirects from https to http. Give the final address itself.")
            url = following
        raise Unreachable(f"{url} redirects more than {MOST_REDIRECTS} times. Give the final address.")

    def _get(self, client: httpx.Client, url: httpx.URL) -> httpx.Response:
        """Send a GET to the first address of the host that takes the connection."""
        headers = {"Accept-Encoding": "identity"}
        try:
            requests = pinned(client, "GET", url, allow_private=self._allow_private, headers=headers)
        except Forbidden as e:
            raise Forbidden(f"{e.message} Or upload the files.") from e
        failure: httpx.HTTPError | None = None
        for request in requests:
            try:
                return client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout) as e:
                failure = e
            except httpx.HTTPError as e:
                raise Unreachable(f"{url} cannot be read: {reason(e)}.") from e
        raise Unreachable(f"{url} cannot be read: {reason(failure)}.") from failure


def _checked_url(text: str) -> httpx.URL:
    url = http_url(text)
    if url.userinfo:
        raise InvalidInput(
            "The URL holds a user name or password, and imports are listed with their URL. Upload the files."
        )
    return url


def _check_status(response: httpx.Response, url: httpx.URL) -> None:
    if response.status_code == 200:
        return
    response.close()
    if response.status_code in {404, 410}:
        raise Missing(f"There is no file at {url} (status {response.status_code}).")
    raise Unreachable(f"{url} answers with status {response.status_code} instead of 200.")


def _body(response: httpx.Response, url: httpx.URL) -> Iterator[bytes]:
    """The body as sent. Read raw: the limits count what travels, and gzip is unpacked with its own."""
    until = time.monotonic() + MOST_SECONDS
    try:
        for chunk in response.iter_raw():
            if time.monotonic() > until:
                raise TooLarge(f"{url} took more than {MOST_SECONDS:g} s to read. Upload the file instead.")
            yield chunk
    except httpx.HTTPError as e:
        raise Unreachable(f"{url} broke off: {reason(e)}.") from e
