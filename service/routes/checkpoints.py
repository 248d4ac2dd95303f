"""GET /checkpoints and one checkpoint, its lineage; POST /checkpoints registers one with its weights."""

from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from headstart.checkpoints.files import resolved
from headstart.errors import Forbidden, InvalidInput, Problem
from headstart.settings import Settings
from service import schemas
from service.accepting import ACCEPTED, accept_source
from service.checkpoint_schemas import CheckpointRequest
from service.deps import SettingsDep, StoreDep, WakeDep
from service.errors import documented
from service.idempotency import IdempotencyKey

router = APIRouter(tags=["catalogue"])


@router.get("/checkpoints", summary="List the checkpoints", responses=documented(404))
def list_checkpoints(
    store: StoreDep, query: Annotated[schemas.CheckpointQuery, Query()]
) -> schemas.CheckpointPage:
    """All known base models, oldest first; by family, or by a part of the name."""
    page = store.checkpoints(
        family=query.family, search=query.search, page_size=query.page_size, page_token=query.page_token
    )
    return schemas.CheckpointPage(
        items=[schemas.Checkpoint.model_validate(one) for one in page.items], next_page_token=page.next_token
    )


@router.post(
    "/checkpoints",
    summary="Register a checkpoint",
    status_code=202,
    response_model=schemas.Import,
    responses={**documented(400, 403, 409, 415), **ACCEPTED},
)
def create_checkpoint(
    store: StoreDep,
    settings: SettingsDep,
    wake: WakeDep,
    body: CheckpointRequest,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Read config, card and headers of a folder or of the hub, so that the checkpoint can be measured.

    Runs as an import; its report names the `checkpoint_id`. The same files again are the same checkpoint. A
    checkpoint of the hub waits for a worker.
    """
    params: dict[str, Any] = {"name": body.name, "family": body.family, "is_vanilla": body.is_vanilla}
    if body.hub is not None:
        kind, source, params["revision"] = "hub-checkpoint", body.hub.id, body.hub.revision
    else:
        kind, source = "checkpoint", _folder(body.path or "", settings)
    response = accept_source(
        store, idempotency_key, "POST /checkpoints", kind=kind, source=source, params=params
    )
    wake()
    return response


@router.get("/checkpoints/{checkpoint_id}", summary="Show a checkpoint", responses=documented(404))
def show_checkpoint(
    store: StoreDep, checkpoint_id: Annotated[schemas.Id, Path(examples=[1])]
) -> schemas.Checkpoint:
    """One base model by its id."""
    return schemas.Checkpoint.model_validate(store.checkpoint(checkpoint_id))


@router.patch(
    "/checkpoints/{checkpoint_id}",
    summary="Say what a checkpoint descends from",
    responses=documented(400, 404, 409, 415),
)
def change_lineage(
    store: StoreDep,
    wake: WakeDep,
    checkpoint_id: Annotated[schemas.Id, Path(examples=[1])],
    change: schemas.LineageChange,
) -> schemas.Checkpoint:
    """Overrule what jobs found of its lineage. They leave it so; advice follows in seconds."""
    checkpoint = store.set_lineage(checkpoint_id, change.lineage, change.note)
    wake()
    return schemas.Checkpoint.model_validate(checkpoint)


def _folder(path: str, settings: Settings) -> str:
    """The folder as it will be read; what lies in it is checked when it is."""
    try:
        folder = resolved(FilePath(path), settings.checkpoint_roots)
        there = folder.is_dir()
    except (Forbidden, InvalidInput) as error:
        raise type(error)(f"path: {error.message}", [Problem("path", error.message)]) from None
    except OSError:  # a folder above it that may not be looked into
        there = False
    if not there:
        what = f"There is no folder {path[:200]!r}, or it may not be looked into. Check the path."
        raise InvalidInput(f"path: {what}", [Problem("path", what)])
    return str(folder)
