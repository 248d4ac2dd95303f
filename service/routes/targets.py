"""GET /targets and one target."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from service import schemas
from service.deps import StoreDep
from service.errors import documented

router = APIRouter(tags=["catalogue"])


@router.get("/targets", summary="List the targets", responses=documented())
def list_targets(store: StoreDep, query: Annotated[schemas.TargetQuery, Query()]) -> schemas.TargetPage:
    """All known targets, oldest first; or by a part of the name."""
    page = store.targets(search=query.search, page_size=query.page_size, page_token=query.page_token)
    return schemas.TargetPage(
        items=[schemas.Target.model_validate(one) for one in page.items], next_page_token=page.next_token
    )


@router.get("/targets/{target_id}", summary="Show a target", responses=documented(404))
def show_target(store: StoreDep, target_id: Annotated[schemas.Id, Path(examples=[1])]) -> schemas.Target:
    """One target by its id."""
    return schemas.Target.model_validate(store.target(target_id))
