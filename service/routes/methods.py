"""GET /methods and one method: what the product can score with, from the methods' own declarations."""

from math import isfinite
from typing import Annotated

from fastapi import APIRouter, Path, Query

from headstart.errors import NotFound
from headstart.method import Method
from service import schemas
from service.deps import MethodsDep, page_of
from service.errors import documented

router = APIRouter(tags=["methods"])


@router.get("/methods", summary="List the methods", responses=documented())
async def list_methods(
    methods: MethodsDep, query: Annotated[schemas.PageQuery, Query()]
) -> schemas.MethodPage:
    """All ways of scoring, by name."""
    page = page_of(tuple(methods.values()), lambda method: method.name, query)
    return schemas.MethodPage(items=[_on_wire(one) for one in page.items], next_page_token=page.next_token)


@router.get("/methods/{name}", summary="Show a method", responses=documented(404))
async def show_method(
    methods: MethodsDep, name: Annotated[schemas.Name, Path(examples=["finetune"])]
) -> schemas.Method:
    """One way of scoring by its name: unit, range, source, and the parameters of its jobs."""
    if name not in methods:
        raise NotFound("method", name, methods)
    return _on_wire(methods[name])


def _on_wire(method: Method) -> schemas.Method:
    low, high = method.range
    return schemas.Method(
        name=method.name,
        version=method.version,
        subject=method.subject,
        unit=method.unit,
        low=low if isfinite(low) else None,
        high=high if isfinite(high) else None,
        higher_is_better=method.higher_is_better,
        needs=list(method.needs),
        paper=method.source.paper,
        equation=method.source.equation,
        summary=method.summary,
        runnable=method.run is not None,
        queue=method.queue,
        params=method.params.model_json_schema(),
    )
