"""The store's contract on API keys: a name is used once, a revocation stands."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.exc import IntegrityError
from store_acts import at_once

from headstart.entities import ApiKey
from headstart.errors import Conflict, InvalidInput, NotFound

if TYPE_CHECKING:
    from headstart.store import Store
    from tests.conftest import FrozenClock


def listed(store: Store, field: str) -> list[Any]:
    everything = store.keys()
    return [getattr(key, field) for key in everything]


def make(store: Store, name: str, scope: str = "read") -> ApiKey:
    return store.create_key(name, scope, hashlib.sha256(name.encode()).hexdigest(), "hs_abcde")


def test_a_key_is_kept_by_its_digest(store: Store, clock: FrozenClock) -> None:
    key = store.create_key("laptop", "run", "d" * 64, "hs_abcde")
    assert key == ApiKey(
        id=key.id,
        name="laptop",
        scope="run",
        shown="hs_abcde",
        digest="d" * 64,
        created_at=clock.now,
        revoked_at=None,
    )
    assert store.keys() == (key,)


def test_there_are_no_keys_at_first(store: Store) -> None:
    assert store.keys() == ()


def test_keys_are_listed_in_the_order_they_were_made(store: Store) -> None:
    names = ("b", "a", "c")
    for name, scope in zip(names, ("read", "run", "admin"), strict=True):
        make(store, name, scope)
    store.revoke_key("a")
    assert listed(store, "name") == list(names)
    assert listed(store, "scope") == ["read", "run", "admin"]


def test_a_name_is_used_once_even_after_it_was_revoked(store: Store) -> None:
    key = make(store, "laptop")
    for _ in range(2):
        with pytest.raises(Conflict, match="'laptop'"):
            store.create_key("laptop", "admin", "e" * 64, "hs_other")
        store.revoke_key("laptop")
    assert listed(store, "id") == [key.id]


def test_a_scope_that_is_none_is_a_bug_of_ours(store: Store) -> None:
    with pytest.raises(IntegrityError):
        make(store, "laptop", "root")
    assert store.keys() == ()


def test_a_name_no_database_can_hold(store: Store) -> None:
    with pytest.raises(InvalidInput):
        make(store, "a\0b")


def test_a_revocation_stands(store: Store, clock: FrozenClock) -> None:
    made_at = clock.now
    make(store, "laptop")
    make(store, "other")
    clock.move(60)
    revoked_at = clock.now
    assert store.revoke_key("laptop").revoked_at == revoked_at
    clock.move(60)
    again = store.revoke_key("laptop")
    assert (again.created_at, again.revoked_at) == (made_at, revoked_at)
    assert listed(store, "revoked_at") == [revoked_at, None]


def test_an_unknown_name_names_the_nearest(store: Store) -> None:
    make(store, "laptop")
    with pytest.raises(NotFound, match=r"'laptpo'.*laptop"):
        store.revoke_key("laptpo")
    with pytest.raises(NotFound, match="headstart keys list"):
        store.revoke_key("nothing like it")


def test_of_many_keys_of_one_name_one_is_made(store: Store) -> None:
    def create(digest: str) -> bool:
        try:
            store.create_key("laptop", "read", digest * 64, "hs_abcde")
        except Conflict:
            return False
        return True

    made = at_once(*(lambda d=digest: create(d) for digest in "abcd"))  # type: ignore[misc]
    assert sum(made) == 1  # type: ignore[arg-type]
    assert len(store.keys()) == 1
