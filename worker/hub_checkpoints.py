"""The importer "hub-checkpoint": a checkpoint of the hub, read without downloading its weights.

Its revision is the commit that the branch, tag or commit asked for stands for now. Of the weights only the
headers are fetched. The hub is that of HF_ENDPOINT, with HF_TOKEN.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, httpx

from headstart.checkpoints.card import MOST_BYTES, read_card
from headstart.checkpoints.describe import check_config
from headstart.checkpoints.files import (
    CARD,
    CONFIG,
    MOST_CONFIG_BYTES,
    MOST_INDEX_BYTES,
    TOKENIZER_CONFIG,
    check_names,
    parse_object,
    weights_of,
)
from headstart.checkpoints.importer import Found, batch_of
from headstart.checkpoints.place import HUB
from headstart.checkpoints.safetensors import LENGTH_BYTES, MOST_HEADER_BYTES, Header, read_header
from headstart.errors import InvalidInput, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from headstart.entities import ImportBatch
    from headstart.evidence.ingest import Errand, Importer

FIRST_BYTES = 100_000  # most headers are shorter, and need one request
SILENT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Repository:
    """A checkpoint of the hub at one commit."""

    api: HfApi
    name: str  # as the hub spells it
    commit: str
    sizes: Mapping[str, int]  # bytes of the files at its top
    modified: datetime | None  # when it was last committed to

    def start(self, file: str, most: int) -> bytes:
        """The first bytes of a file, `most` of them."""
        url = hf_hub_url(self.name, file, revision=self.commit, endpoint=self.api.endpoint)
        headers = {**build_hf_headers(), "Range": f"bytes=0-{most - 1}", "Accept-Encoding": "identity"}
        options: dict[str, Any] = {"follow_redirects": True, "timeout": SILENT_SECONDS}
        found = bytearray()
        with get_session().stream("GET", url, headers=headers, **options) as response:
            hf_raise_for_status(response)
            for chunk in response.iter_bytes():
                found += chunk
                if len(found) >= most:  # a server may not know ranges
                    break
        return bytes(found[:most])

    def json(self, file: str, most: int) -> dict[str, Any]:
        """A JSON object; {} where there is no such file."""
        return parse_object(self.start(file, most + 1), file, most) if file in self.sizes else {}

    def header(self, file: str) -> Header:
        """The header of a safetensors file."""
        size = self.sizes[file]
        start = self.start(file, FIRST_BYTES)
        needed = LENGTH_BYTES + int.from_bytes(start[:LENGTH_BYTES], "little")
        if len(start) < needed <= min(size, LENGTH_BYTES + MOST_HEADER_BYTES):
            start = self.start(file, needed)
        return read_header(io.BytesIO(start), size, file)


def import_from_hub(errand: Errand) -> ImportBatch:
    """Read what the hub tells of a checkpoint. `params`: revision, name, family, is_vanilla, or null.

    Raises: Unreachable (no such checkpoint or revision, gated, the hub does not answer), Forbidden (pickles,
    code of its own), InvalidInput (something in it contradicts), Conflict (the family has another vanilla).
    """
    errand.progress(0.0, "asking the hub")
    try:
        found = _read(errand)
    except GatedRepoError:
        raise Unreachable(
            f"The hub gives {errand.source!r} only to those who accepted its terms. Accept them on the "
            "hub, and give the worker that account's HF_TOKEN."
        ) from None
    except (RevisionNotFoundError, DisabledRepoError):
        raise Unreachable(
            f"The hub does not give out {errand.source!r} at the revision {errand.params.get('revision')!r}. "
            "Check it, or leave it out."
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise Unreachable(
            f"The hub has no checkpoint {errand.source!r}, or does not show it. Check the id; for a private "
            "one give the worker an HF_TOKEN."
        ) from None
    except (httpx.HTTPError, OSError) as error:
        raise Unreachable(
            f"The hub could not be asked for {errand.source!r}: {_first_line(error)}. Try again later."
        ) from None
    return batch_of(found, errand.params, errand.store)


def _read(errand: Errand) -> Found:
    repository = _open(errand)
    weights = weights_of(
        repository.sizes,
        lambda index: repository.json(index, MOST_INDEX_BYTES),
        pickles=errand.limits.allow_pickles,
    )
    tokenizer = check_names(repository.sizes, weights)
    config = repository.json(CONFIG, MOST_CONFIG_BYTES)
    check_config(config, repository.json(TOKENIZER_CONFIG, MOST_CONFIG_BYTES))
    headers = []
    for done, file in enumerate(weights):
        errand.progress(0.75 * done / len(weights), "reading the headers of the weights")
        if file.endswith(".safetensors"):
            headers.append(repository.header(file))
    card = repository.start(CARD, MOST_BYTES).decode("utf-8", "replace") if CARD in repository.sizes else ""
    return Found(
        name=repository.name,
        pin=repository.commit,
        config=config,
        card=read_card(card),
        headers=tuple(headers),
        details={
            "source": HUB,
            "hub_id": repository.name,
            "files": {name: repository.sizes[name] for name in (CONFIG, *tokenizer, *weights)},
            **({"last_modified": repository.modified.isoformat()} if repository.modified else {}),
        },
    )


def _open(errand: Errand) -> Repository:
    api = HfApi()
    told = api.model_info(
        errand.source, revision=errand.params.get("revision"), files_metadata=True, timeout=SILENT_SECONDS
    )
    sizes = {
        file.rfilename: file.size
        for file in told.siblings or ()
        if "/" not in file.rfilename and file.size is not None
    }
    if not told.sha or not sizes:
        raise InvalidInput(f"The hub has {errand.source!r}, and no files of it. Choose another checkpoint.")
    return Repository(api, errand.source, told.sha, sizes, told.last_modified)


def _first_line(error: Exception) -> str:
    said = str(error).strip().splitlines() or [type(error).__name__]
    return said[0][:300].rstrip(".")


IMPORTERS: Mapping[str, Importer] = {"hub-checkpoint": import_from_hub}
