"""GET /families and one family; POST /families/{name}/probe measures all of one.

A family's ranking is advice and lives with /recommend.
"""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from headstart.recommend import predictors
from service import checkpoint_schemas as wire
from service import family_probe, family_schemas, schemas
from service.deps import StoreDep, page_of
from service.errors import documented
from service.routes.jobs import DeskDep

router = APIRouter(tags=["catalogue"])
FamilyName = Annotated[
    schemas.Name, Path(description="Its name, slashes included.", examples=["roberta-base"])
]


@router.get("/families", summary="List the families", responses=documented())
def list_families(store: StoreDep, query: Annotated[schemas.PageQuery, Query()]) -> schemas.FamilyPage:
    """All families with evidence, by name."""
    page = page_of(store.families(), lambda family: family.name, query)
    return schemas.FamilyPage(
        items=[schemas.Family.model_validate(one) for one in page.items], next_page_token=page.next_token
    )


@router.post(
    "/families/{name:path}/probe",
    summary="Probe a family",
    status_code=202,
    response_model=wire.FamilyProbe,
    responses={**documented(400, 404, 409, 413, 415), 202: {"description": "All of them were taken."}},
)
def probe_family(desk: DeskDep, name: FamilyName, body: wire.FamilyProbeRequest) -> Response:
    """Queue one job for every checkpoint of the family and its vanilla: the static ranking from day one.

    What is scored or under way is not measured again; asking again goes on where the last call stopped.
    """
    plan = family_probe.plan(desk.store, desk.methods, name, body)
    places = [""] * len(plan.requests)
    return desk.answer(body, f"POST /families/{name}/probe", plan.requests, places, plan.written)


@router.get("/families/{name:path}", summary="Show a family", responses=documented(404))
def show_family(store: StoreDep, name: FamilyName) -> family_schemas.FamilyDetails:
    """One family by its name, and how well each static score foretells gain in its evidence.

    The correlations are those of the last refit, a few seconds after the newest score.
    """
    family, newest = store.family(name), store.newest_posteriors(predictors.FORMAT).get(name)
    found, version = predictors.UNFITTED, None
    if newest is not None:
        identity, version = newest
        found = predictors.from_bytes(store.posterior(identity).payload)
    return family_schemas.FamilyDetails(
        **schemas.Family.model_validate(family).model_dump(),
        static_scores=[family_schemas.StaticScore.model_validate(one) for one in found],
        static_scores_version=version,
    )
