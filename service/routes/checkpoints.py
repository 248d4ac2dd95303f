"""GET /checkpoints and one checkpoint."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from service import schemas
from service.deps import StoreDep
from service.errors import documented

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


@router.get("/checkpoints/{checkpoint_id}", summary="Show a checkpoint", responses=documented(404))
def show_checkpoint(
    store: StoreDep, checkpoint_id: Annotated[schemas.Id, Path(examples=[1])]
) -> schemas.Checkpoint:
    """One base model by its id."""
    return schemas.Checkpoint.model_validate(store.checkpoint(checkpoint_id))
