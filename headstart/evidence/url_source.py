"""Files behind an http(s) address, fetched without trusting where the address leads.

A URL comes from a request, so it must not reach what only this machine can reach. The name is resolved
here, every address it resolves to is checked, and the connection goes to a checked address itself: the
name is not looked up a second time, so a DNS answer that changes in between changes nothing. Redirects
are followed by hand and each hop is checked the same way. Proxies from the environment are not used,
since behind a proxy the check would mean nothing.
"""

from __future__ import annotations

import socket
import time
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx

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
NAT64 = IPv6Network("64:ff9b::/96")

Address = IPv4Address | IPv6Address


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
            except (httpx.InvalidURL, InvalidInput) as e:
                raise Unreachable(f"{url} redirects to {location[:200]!r}, which is no address.") from e
            if url.scheme == "https" and following.scheme != "https":
                raise Forbidden(f"{url} redirects from https to http. Give the final address itself.")
            url = following
        raise Unreachable(f"{url} redirects more than {MOST_REDIRECTS} times. Give the final address.")

    def _get(self, client: httpx.Client, url: httpx.URL) -> httpx.Response:
        """Send a GET to a checked address of the host; Host and SNI keep the name."""
        failure: httpx.HTTPError | None = None
        for address in resolve(url, allow_private=self._allow_private):
            request = client.build_request(
                "GET",
                url.copy_with(host=str(address)),
                headers={"Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity"},
                extensions={"sni_hostname": url.raw_host.decode("ascii")},
            )
            try:
                return client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout) as e:
                failure = e
            except httpx.HTTPError as e:
                raise Unreachable(f"{url} cannot be read: {_why(e)}.") from e
        raise Unreachable(f"{url} cannot be read: {_why(failure)}.") from failure


def resolve(url: httpx.URL, *, allow_private: bool) -> tuple[Address, ...]:
    """Return the addresses of the URL's host.

    Raises: Unreachable (unknown name), Forbidden (any of them is not public, unless `allow_private`).
    """
    host = url.raw_host.decode("ascii")
    try:
        found = socket.getaddrinfo(host, url.port or 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as e:
        raise Unreachable(f"The host {host!r} of {url} cannot be found.") from e
    addresses = tuple(dict.fromkeys(ip_address(str(entry[4][0])) for entry in found))
    for address in addresses:
        if not allow_private and not is_public(address):
            raise Forbidden(
                f"{host!r} leads to {address}, which is not a public address. Upload the files, "
                "or set HEADSTART_ALLOW_PRIVATE_URLS=true."
            )
    return addresses


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet; IPv4 addresses inside IPv6 ones are looked into."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.teredo is not None:
            return False
        inner = address.sixtofour
        if address in NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _checked_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as e:
        raise InvalidInput(f"{text[:200]!r} is not a URL: {e}.") from e
    if url.scheme not in {"http", "https"} or not url.host:
        raise InvalidInput(f"{text[:200]!r} is not an http or https address. Give one, or upload the files.")
    if url.userinfo:
        raise InvalidInput(
            "The URL holds a user name or password, and imports are listed with their URL. Upload the files."
        )
    return url.copy_with(fragment=None)


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
        raise Unreachable(f"{url} broke off: {_why(e)}.") from e


def _why(error: httpx.HTTPError | None) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return str(error).rstrip(".") or type(error).__name__
