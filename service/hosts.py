"""Who may ask without a key: whoever calls the service by a name of its own, and no page of another site.

A web page can make the browser of whoever looks at it send requests to services on their machine, as itself
(its site is then in `Origin`) or, by giving its own name the address 127.0.0.1 once it is loaded (DNS
rebinding), as if it were a page of the service: then the name is in `Host`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from headstart.errors import Forbidden

if TYPE_CHECKING:
    from headstart.settings import Settings

READING = frozenset({"GET", "HEAD"})
_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:@/\s]+))(?::\d*)?", re.IGNORECASE)


def is_loopback(host: str) -> bool:
    """Whether this name or address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Hosts:
    """Judges requests without a key by their `Host` and `Origin`."""

    def __init__(self, settings: Settings) -> None:
        self._names = frozenset(name.casefold() for name in settings.hosts)
        # What stands in front of an open service may call it anything, unless it is told what.
        self._any_host = settings.open_bind and not self._names
        self._is_ours = lru_cache(maxsize=1024)(self._has_our_name)

    def check(self, method: str, host: bytes | None, origin: bytes | None) -> None:
        """Raise Forbidden for a host that is not ours, or a page of another site that would change things."""
        if not (self._any_host or self._is_ours(host)):
            shown = (host or b"").decode("latin-1")[:100]
            raise Forbidden(
                f"Without an API key this service may not be asked as {shown!r}. Ask it as localhost, or "
                "add the name to HEADSTART_HOSTS."
            )
        # An answer to a GET is the browser's to keep from the page. What else it sends has been done by then.
        if origin is not None and method not in READING and not self._is_same_site(origin, host):
            raise Forbidden(
                f"A web page of {origin.decode('latin-1')[:100]!r} may not send this without an API key. Use "
                "the `headstart` command or curl, or add the page's host to HEADSTART_HOSTS."
            )

    def _has_our_name(self, authority: bytes | None) -> bool:
        name = _name_of(authority or b"")
        return is_loopback(name) or name in self._names

    def _is_same_site(self, origin: bytes, host: bytes | None) -> bool:
        # On loopback the port counts, whatever is listed: another server there may show pages of anyone.
        _, slashes, site = origin.partition(b"://")
        name = _name_of(site)
        return bool(slashes) and (site == host or (name in self._names and not is_loopback(name)))


def _name_of(authority: bytes) -> str:
    """The name or address in `name:port`, in lower case; empty where there is none to be read."""
    match = _AUTHORITY.fullmatch(authority.decode("latin-1"))
    return (match[1] or match[2]).casefold().removesuffix(".") if match else ""
