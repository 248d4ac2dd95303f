"""GET /families and one family. Its ranking is advice and lives with /recommend."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from service import schemas
from service.deps import StoreDep, page_of
from service.errors import documented

router = APIRouter(tags=["catalogue"])


@router.get("/families", summary="List the families", responses=documented())
def list_families(store: StoreDep, query: Annotated[schemas.PageQuery, Query()]) -> schemas.FamilyPage:
    """All families with evidence, by name."""
    page = page_of(store.families(), lambda family: family.name, query)
    return schemas.FamilyPage(
        items=[schemas.Family.model_validate(one) for one in page.items], next_page_token=page.next_token
    )


@router.get("/families/{name:path}", summary="Show a family", responses=documented(404))
def show_family(
    store: StoreDep,
    name: Annotated[schemas.Name, Path(description="Its name, slashes included.", examples=["roberta-base"])],
) -> schemas.Family:
    """One family by its name."""
    return schemas.Family.model_validate(store.family(name))
