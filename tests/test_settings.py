"""Settings that cannot be used are refused in a sentence, without their values."""

from __future__ import annotations

import pytest

from headstart.errors import InvalidInput
from headstart.settings import Settings, read_settings


def refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> str:
    monkeypatch.setenv(f"HEADSTART_{name}", value)
    with pytest.raises(InvalidInput) as caught:
        read_settings()
    with pytest.raises(ValueError, match=name.lower()) as whole:
        Settings()
    assert value in ("", "whsec_") or value not in caught.value.message + str(whole.value)
    assert f"HEADSTART_{name} cannot be used" in caught.value.message
    assert "Value error" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("secret", ["whsec_", "whsec_not base64", "whsec_abc", "whsec_é"])
def test_a_prefixed_secret_must_be_base64(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    assert "openssl rand -base64 32" in refused(monkeypatch, "WEBHOOK_SECRET", secret)


@pytest.mark.parametrize("broker", ["amqp://guest:pass@rabbit:5672//", "localhost:6379"])
def test_the_broker_is_redis(monkeypatch: pytest.MonkeyPatch, broker: str) -> None:
    assert "redis://HOST:PORT/0" in refused(monkeypatch, "BROKER", broker)


@pytest.mark.parametrize("broker", ["", "redis://localhost:6379/0", "rediss://:p@redis.example/1"])
def test_brokers_that_ring(monkeypatch: pytest.MonkeyPatch, broker: str) -> None:
    monkeypatch.setenv("HEADSTART_BROKER", broker)
    assert read_settings().broker.get_secret_value() == broker


def test_a_value_of_the_wrong_kind_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    refused(monkeypatch, "PORT", "many-ports")


def test_what_is_given_stands_above_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_PORT", "9")
    assert read_settings(port=7, host=None).port == 7
    assert read_settings().port == 9
