"""How the store is connected to."""

from __future__ import annotations

from headstart.store.engine import open_engine, parse_url


def limits(url: str) -> dict[str, str]:
    engine = open_engine(parse_url(url))
    with engine.connect() as connection:
        given: dict[str, str] = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
    engine.dispose()
    names = ("tcp_user_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count")
    return {name: given[name] for name in names if name in given}


def test_a_network_that_is_gone_is_noticed_in_seconds(empty_postgres: str) -> None:
    assert limits(empty_postgres) == {
        "tcp_user_timeout": "10000",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
    }


def test_the_url_has_the_last_word(empty_postgres: str) -> None:
    more = "&" if "?" in empty_postgres else "?"
    found = limits(f"{empty_postgres}{more}tcp_user_timeout=70000&keepalives_idle=60")
    assert (found["tcp_user_timeout"], found["keepalives_idle"]) == ("70000", "60")
    assert found["keepalives_count"] == "3"
