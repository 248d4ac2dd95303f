"""API keys on the wire: what they look like, which are in force, and what each may do."""

from __future__ import annotations

import hashlib
import secrets
import threading
from typing import TYPE_CHECKING, NamedTuple

import structlog

from headstart.errors import Forbidden, HeadstartError, RateLimited, StoreUnavailable, Unauthorized
from service.hosts import READING, Hosts, is_loopback
from service.rate_limit import RateLimit

if TYPE_CHECKING:
    from starlette.types import Scope

    from headstart.entities import ApiKey
    from headstart.settings import Settings
    from headstart.store import Store

KEY = "headstart.key"  # key of the ASGI scope: the ApiKey of the request, or None
LEVELS = {"read": 0, "run": 1, "admin": 2}  # a scope holds those below it
OPEN = frozenset({"/healthz", "/readyz", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
LONGEST_LOOK = 1.0  # seconds until a new key works and a revoked one does not, whatever the settings say
MAKE_ONE = "Keys are made with `headstart keys create NAME --scope read`."
_SHOWN = 8
_log = structlog.get_logger("headstart.service")


def new_token() -> str:
    """Make a key: `hs_` and 256 random bits."""
    return f"hs_{secrets.token_urlsafe(32)}"


def digest_of(token: bytes) -> str:
    """What is stored of a key: nobody can guess 256 random bits, so that a slow digest would add nothing."""
    return hashlib.sha256(token).hexdigest()


def shown_of(token: str) -> str:
    """The first characters of a key, to recognise it by."""
    return token[:_SHOWN]


def needs_keys(settings: Settings) -> bool:
    """Whether only holders of a key may ask: where others reach the service, and nothing else guards it."""
    return not settings.open_bind and not is_loopback(settings.host)


def scope_needed(method: str, path: str) -> str:
    """The least scope that may send this. POST /recommend asks for more by itself where it starts a race."""
    if method in READING or (method == "POST" and path == "/recommend"):
        return "read"
    # Beginnings of paths, so that what a route matches is never more than what is guarded here.
    if path.startswith(("/scores/", "/checkpoints/")) or (
        path.startswith("/deliveries/") and method == "POST"
    ):
        return "admin"
    return "run"


class Keys:
    """The keys in force, in memory, read again from the store every `seconds`."""

    def __init__(self, store: Store, seconds: float) -> None:
        self._store = store
        self._seconds = min(seconds, LONGEST_LOOK)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="keys", daemon=True)
        self._answered = True
        self._by_digest: dict[str, ApiKey] | None = None  # None: the store has not answered yet

    def start(self) -> None:
        """Read the keys, if the store answers, and keep looking."""
        self._refresh()
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; the keys known stay in force."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def find(self, authorization: bytes) -> ApiKey:
        """The key that an Authorization header holds; Unauthorized for anything but a key in force."""
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not token:
            raise Unauthorized(f"The Authorization header is not of the form 'Bearer KEY'. {MAKE_ONE}")
        if self._by_digest is None:
            raise StoreUnavailable(
                "The API keys are not loaded yet, since the store did not answer. Try again soon."
            )
        # Looked up by digest: how long that takes says nothing of a key, since nobody can choose digests.
        key = self._by_digest.get(digest_of(token.strip()))
        if key is None:
            raise Unauthorized(
                "The API key is not in force: it was revoked, or is not of this service. "
                f"{MAKE_ONE} A new one works after a second."
            )
        return key

    def _watch(self) -> None:
        while not self._stop.wait(self._seconds):
            self._refresh()

    def _refresh(self) -> None:
        """Read the keys; those known stay where the store does not answer, which is logged once."""
        try:
            keys = self._store.keys()
        except Exception as error:
            if self._answered:
                reason = error.message if isinstance(error, HeadstartError) else repr(error)
                _log.warning("keys_not_read", reason=reason)
            self._answered = False
        else:
            self._by_digest = {key.digest: key for key in keys if key.revoked_at is None}
            self._answered = True


class Caller(NamedTuple):
    """Who sends a request, as far as its headers tell."""

    authorization: bytes | None
    host: bytes | None
    origin: bytes | None


class Gate:
    """Lets requests in, or says why not. Judged by headers, method and path alone: it is on the hot path."""

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._keys = keys
        self._needs_keys = needs_keys(settings)
        self._hosts = Hosts(settings)
        self._rate_limit = RateLimit(settings.rate_limit) if settings.rate_limit else None

    def admit(self, scope: Scope, caller: Caller, sent: list[tuple[bytes, bytes]]) -> None:
        """Note the key on the scope, and what is left to it among the headers `sent` with the answer.

        Raises: Unauthorized, Forbidden, RateLimited, StoreUnavailable (no keys were ever read).
        """
        method, path = scope["method"], scope["path"]
        scope[KEY] = None
        if caller.authorization is not None:
            key = scope[KEY] = self._keys.find(caller.authorization)
            self._count(key, sent)
            check_scope(key, scope_needed(method, path))
        elif not self._needs_keys:
            self._hosts.check(method, caller.host, caller.origin)
        elif path not in OPEN or method not in READING:
            raise Unauthorized(
                "An API key is needed here: send it as 'Authorization: Bearer KEY' "
                f"(the `headstart` command sends HEADSTART_API_KEY). {MAKE_ONE}"
            )

    def _count(self, key: ApiKey, sent: list[tuple[bytes, bytes]]) -> None:
        if self._rate_limit is None:
            return
        quota = self._rate_limit.take(key.id)
        sent += self._rate_limit.headers(quota)
        if not quota.allowed:
            raise RateLimited(
                f"The API key {key.name!r} has sent more requests than HEADSTART_RATE_LIMIT allows in a "
                f"minute. Wait {quota.seconds} s, and send fewer at a time.",
                quota.seconds,
            )


def check_scope(key: ApiKey, needed: str) -> None:
    """Raise Forbidden where the key's scope is too small."""
    if LEVELS[key.scope] < LEVELS[needed]:
        raise Forbidden(
            f"This needs an API key of scope {needed!r}, and {key.name!r} has {key.scope!r}. "
            f"Make one with `headstart keys create NAME --scope {needed}`."
        )
