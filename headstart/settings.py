"""Settings, read from the environment (`HEADSTART_*`) by entry points only and passed down."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from headstart.errors import InvalidInput

MODEL_RECYCLING = (
    "https://raw.githubusercontent.com/IBM/model-recycling/1c1d4228810ef0506de1a85144a3744b274c8bbc/results"
)


class Settings(BaseSettings):
    """Every setting, with its default. `HEADSTART_STORE=... HEADSTART_PORT=...` override them."""

    model_config = SettingsConfigDict(env_prefix="HEADSTART_", frozen=True, hide_input_in_errors=True)

    store: SecretStr = Field(
        SecretStr("sqlite:///.headstart/store.db"),
        description="SQLAlchemy URL of the store: sqlite:///FILE or postgresql+psycopg://...",
    )
    host: str = Field("127.0.0.1", description="Address to serve on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to serve on; 0 picks a free one.")
    open_bind: bool = Field(
        False,
        description="Serve others without API keys, since something in front checks who asks.",
    )
    hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Further names under which a service without keys may be asked, separated by ','."
    )
    rate_limit: int = Field(
        6000, ge=0, description="Requests per minute of one API key to one process; 0: no limit."
    )
    broker: SecretStr = Field(
        SecretStr(""),
        description="redis://... that rings Celery workers; empty: workers look for themselves.",
    )
    methods: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Further methods, as Python modules with a METHOD, separated by ','."
    )
    job_seconds: float = Field(6 * 3600.0, gt=0, description="Longest a job may run.")
    job_attempts: int = Field(3, ge=1, description="How often a job is tried where trying again can help.")
    retry_seconds: float = Field(
        5.0, gt=0, description="Before the second attempt at a job; doubled for each further one."
    )
    concurrency: int = Field(
        0, ge=0, description="Jobs a worker runs at a time; 0: one for each GPU it may see, or one."
    )
    scratch: Path = Field(
        Path(".headstart/scratch"), description="Folder where jobs keep what a later attempt goes on from."
    )
    save_seconds: float = Field(
        60.0, ge=0, description="Of a finetune between two states that a later attempt can go on from."
    )
    cache: Path = Field(
        Path(".headstart/cache"),
        description="Folder where a worker keeps rows, tokens, features and hub downloads.",
    )
    kept: Path = Field(
        Path(".headstart/kept"), description="Folder where finetunes that are kept become checkpoints."
    )
    max_cache_bytes: int = Field(
        20 << 30, ge=0, description="Size at which the least recently used tokens and features go."
    )
    allow_pickles: bool = Field(
        False, description="Let checkpoints be read that are stored as pickles, by torch's weights_only."
    )
    webhook_secret: SecretStr = Field(
        SecretStr(""), description="Signs webhooks; empty: jobs with a webhook are refused."
    )
    starter: str = Field(
        MODEL_RECYCLING,
        description="Folder or URL of published scores imported into an empty store; empty: none.",
    )
    embedded_worker: bool = Field(
        True, description="Run imports and refits in a thread of the service itself."
    )
    roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Folders that imports, targets and checkpoints may be read from, separated by ':'."
    )
    allow_private_urls: bool = Field(
        False, description="Let imports and webhooks connect to private and loopback addresses."
    )
    max_body_bytes: int = Field(1 << 20, description="Largest request body, uploads apart.")
    max_upload_bytes: int = Field(256 << 20, description="Largest upload, and most text of a target's role.")
    max_import_rows: int = Field(1_000_000, description="Most rows one import may hold.")
    snapshot_seconds: float = Field(1.0, gt=0, description="How often to look for new evidence.")
    lease_seconds: float = Field(
        60.0, gt=0, description="How long an unrenewed claim on an import or a job holds."
    )

    @property
    def checkpoint_roots(self) -> tuple[Path, ...]:
        """Folders that checkpoints may be read from."""
        return (*self.roots, self.kept.absolute())

    @field_validator("hosts", "methods", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("broker")
    @classmethod
    def _redis(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and not value.get_secret_value().startswith(("redis://", "rediss://")):
            raise ValueError("Headstart rings by Redis: give redis://HOST:PORT/0, or leave it empty")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _decodable(cls, value: SecretStr) -> SecretStr:
        secret = value.get_secret_value()
        if secret.startswith("whsec_"):
            try:
                key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
            except ValueError:
                key = b""
            if not key:
                raise ValueError(
                    "what follows whsec_ is not base64; make one with `echo whsec_$(openssl rand -base64 32)`"
                )
        return value

    @field_validator("roots", mode="before")
    @classmethod
    def _split_roots(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(Path(part) for part in value.split(os.pathsep) if part)
        return value


def read_settings(**given: Any) -> Settings:
    """The settings of the environment, and above them what is given, where that is not None.

    Raises: InvalidInput, a sentence that names the setting and never its value.
    """
    try:
        return Settings(**{key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "HEADSTART_" + "_".join(map(str, first["loc"])).upper()
        said = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"The setting {name} cannot be used: {said}. Correct or unset it.") from None
