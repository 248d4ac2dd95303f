"""The HTTP client behind the CLI: every failure becomes one sentence."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Self

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

API_KEY = "HEADSTART_API_KEY"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PAGE = 500


class Refused(Exception):
    """The command cannot be done; the message is a sentence for the person at the terminal."""


class BrokenOff(Refused):
    """The service went away in the middle of a stream: it may come back."""


class Client:
    """Speaks to one Headstart service."""

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            host = httpx.URL(url).host
            # A proxy of the environment is for the world outside, never for this machine.
            trusts = host not in LOOPBACK
            self._http = httpx.Client(base_url=url, headers=_credentials(), timeout=60.0, trust_env=trusts)
        except (httpx.InvalidURL, ValueError) as error:
            raise Refused(f"The URL {url!r} cannot be used ({error}). Give --url http://HOST:PORT.") from None

    def __enter__(self) -> Self:
        """Speak."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self._http.close()

    def request(self, method: str, path: str, **arguments: Any) -> Any:
        """Send a request and return the JSON of its answer."""
        return self._json(self._sent(method, path, **arguments))

    def read(self, path: str) -> bytes:
        """The bytes of an answer that is no JSON."""
        return self._sent("GET", path).content

    def _sent(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.UnsupportedProtocol:
            raise Refused(f"The URL {self._url!r} is not http. Give --url http://HOST:PORT.") from None
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise Refused(
                f"No Headstart service answers at {self._url}. Start one with: headstart serve"
            ) from None
        except httpx.HTTPError as error:
            raise Refused(
                f"The service at {self._url} broke off the request ({type(error).__name__}). Try again."
            ) from None
        if response.is_success:
            return response
        raise Refused(_sentence(response))

    def streamed(self, path: str, headers: Mapping[str, str]) -> Iterator[str]:
        """Yield the text of a long answer as it comes; BrokenOff where the service cannot be reached."""
        try:
            with self._http.stream("GET", path, headers=dict(headers)) as response:
                if response.is_success:
                    yield from response.iter_text()
                    return
                response.read()
        except httpx.TransportError as error:
            what = f"The service at {self._url} went away ({type(error).__name__}). Is it still running?"
            raise BrokenOff(what) from None
        raise (BrokenOff if response.is_server_error else Refused)(_sentence(response))

    def listed(self, path: str, params: Mapping[str, Any], limit: int) -> dict[str, Any]:
        """Read a list, page by page, up to `limit` items."""
        items: list[Any] = []
        wanted = {key: value for key, value in params.items() if value is not None}
        token: str | None = None
        while True:
            size = min(PAGE, limit - len(items))
            page = self.request("GET", path, params={**wanted, "page_size": size} | _token(token))
            items += page["items"]
            token = page["next_page_token"]
            if token is None or len(items) >= limit:
                return {"items": items, "next_page_token": token}

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            raise Refused(f"What answers at {self._url} is not Headstart. Check --url.") from None


def _credentials() -> dict[str, str]:
    """The API key of the environment, if there is one."""
    key = os.environ.get(API_KEY, "").strip()
    if key and not re.fullmatch(r"[!-~]+", key):
        raise Refused(f"What {API_KEY} holds is not an API key. Set it to one as it was shown, or unset it.")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _token(token: str | None) -> dict[str, str]:
    return {} if token is None else {"page_token": token}


def _sentence(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        what = f"{response.status_code} {response.reason_phrase}"
        return f"The answer was {what}, which is not of Headstart. Check --url."
