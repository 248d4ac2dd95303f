"""A family's weight regions, their map, and what is made of them: centroids, and a study of one."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from service import centroids, job_schemas, region_plot, regions, schemas
from service import region_schemas as wire
from service.asked import Grounds
from service.deps import SnapshotsDep, StoreDep
from service.errors import documented
from service.routes.jobs import ACCEPTED, DeskDep, written
from service.routes.recommend import current

router = APIRouter(tags=["regions"])
FamilyName = Annotated[
    schemas.Name, Path(description="Its name, slashes included.", examples=["roberta-base"])
]
PNG = "image/png"


@router.post(
    "/families/{name:path}/regions",
    summary="Find the regions of a family",
    status_code=202,
    response_model=job_schemas.Submission,
    responses={**documented(400, 404, 409, 413, 415), **ACCEPTED},
)
def find_regions(desk: DeskDep, name: FamilyName, body: wire.RegionsRequest) -> Response:
    """Queue the job that reads the weights of the family's checkpoints and finds which lie together.

    Its job ends with the regions in `result` (RegionsResult), and with the lineage of every checkpoint read.
    What was read once is not read again. An equal job that is under way is joined.
    """
    draft = regions.plan(desk.store, name, body, signed=desk.signed)
    return desk.once(body, f"POST /families/{name}/regions", lambda: desk.take(draft), written)


@router.get(
    "/families/{name:path}/regions/map.png",
    summary="Draw the regions of a family",
    response_class=Response,
    responses={**documented(404, 409), 200: {"content": {PNG: {}}, "description": "A scatter plot."}},
)
def draw_regions(store: StoreDep, name: FamilyName) -> Response:
    """The map of GET /families/{name}/regions as a picture. 409 where the service has no matplotlib."""
    return Response(region_plot.map_png(regions.newest(store, name).result or {}), media_type=PNG)


@router.get(
    "/families/{name:path}/regions", summary="Show the regions of a family", responses=documented(404)
)
def show_regions(store: StoreDep, name: FamilyName) -> wire.FamilyRegions:
    """The newest regions that a job found, and whether checkpoints have come since."""
    return regions.answer(store, name)


@router.post(
    "/families/{name:path}/centroids",
    summary="Make a centroid",
    status_code=202,
    response_model=job_schemas.Submission,
    responses={**documented(400, 404, 409, 415), **ACCEPTED},
)
def make_centroid(
    desk: DeskDep, snapshots: SnapshotsDep, name: FamilyName, body: wire.CentroidRequest
) -> Response:
    """Queue the job that averages checkpoints of the family into a new checkpoint of it.

    The members are those of a region, a list, or what a rule fits; those tuned on `target` are left out. Its
    job ends with the checkpoint registered, which is then probed and ranked like any other.
    """
    grounds = Grounds(desk.store, current(snapshots), desk.signed)
    draft = centroids.plan(grounds, name, body)
    return desk.once(body, f"POST /families/{name}/centroids", lambda: desk.take(draft), written)


@router.post(
    "/families/{name:path}/region-study",
    summary="Study a region on a target",
    status_code=202,
    response_model=job_schemas.Submission,
    responses={**documented(400, 404, 409, 415), **ACCEPTED},
)
def study_region(
    desk: DeskDep, snapshots: SnapshotsDep, name: FamilyName, body: wire.RegionStudyRequest
) -> Response:
    """Queue the job that measures the generalised loss in a region, on lines through it, and outside.

    Its `result` says how often what lies inside beats what lies outside, with intervals.
    """
    grounds = Grounds(desk.store, current(snapshots), desk.signed)
    draft = centroids.plan_study(grounds, name, body)
    return desk.once(body, f"POST /families/{name}/region-study", lambda: desk.take(draft), written)
