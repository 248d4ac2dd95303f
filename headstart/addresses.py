"""Requests to addresses that somebody else chose: checked, and sent to what was checked.

A URL of a request must not reach what only this machine can reach. The name is resolved here, every address
it resolves to is checked, and the connection goes to a checked address itself: the name is not looked up a
second time, so a DNS answer that changes in between changes nothing. Clients must not use the proxies of the
environment, since behind a proxy the check would mean nothing, nor follow redirects by themselves.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

import httpx

from headstart.errors import Forbidden, InvalidInput, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

NAT64 = IPv6Network("64:ff9b::/96")

Address = IPv4Address | IPv6Address


def http_url(text: str) -> httpx.URL:
    """Read an http or https URL with a host; its fragment is dropped. Raises: InvalidInput."""
    try:
        url = httpx.URL(text)
        host = url.host  # read here, since a malformed international name is found out only now
    except (httpx.InvalidURL, ValueError) as e:
        raise InvalidInput(f"{text[:200]!a} is not a URL: {e}.") from e
    port = 80 if url.port is None else url.port
    if url.scheme not in {"http", "https"} or not host or not 0 < port < 1 << 16:
        raise InvalidInput(f"{text[:200]!a} is not an http or https address. Give one.")
    return url.copy_with(fragment=None)


def pinned(
    client: httpx.Client | httpx.AsyncClient,
    method: str,
    url: httpx.URL,
    *,
    allow_private: bool,
    headers: Mapping[str, str],
    content: bytes | None = None,
) -> tuple[httpx.Request, ...]:
    """The request to each checked address of the URL's host, to be tried in turn; Host and SNI keep the name.

    Raises: what `resolve` does.
    """
    return tuple(
        client.build_request(
            method,
            url.copy_with(host=str(address)),
            headers={"Host": url.netloc.decode("ascii"), **headers},
            content=content,
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        )
        for address in resolve(url, allow_private=allow_private)
    )


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
                f"{host!r} leads to {address}, which is not a public address. "
                "Set HEADSTART_ALLOW_PRIVATE_URLS=true to allow that."
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


def reason(error: Exception | None) -> str:
    """Why no answer came, as the end of a sentence without its full stop."""
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return "no answer in time"
    return str(error).rstrip(".") or "the connection broke off"
