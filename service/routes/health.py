"""GET /healthz (alive), /readyz (can answer), /metrics (Prometheus)."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from headstart import __version__
from headstart.errors import StoreUnavailable
from service import schemas
from service.deps import DoorbellDep, MetricsDep, SnapshotsDep, StoreDep
from service.errors import documented

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Is it alive?", responses=documented())
async def healthz() -> schemas.Health:
    """Answers as long as the process serves; restart it when it does not."""
    return schemas.Health(version=__version__)


@router.get("/readyz", summary="Can it answer?", responses=documented())
def readyz(store: StoreDep, snapshots: SnapshotsDep, doorbell: DoorbellDep) -> schemas.Readiness:
    """The store answers with the schema we know and evidence is loaded; otherwise 503 says why not."""
    store.ping()
    current = snapshots.current
    if current is None:
        raise StoreUnavailable("The evidence is not loaded yet. Try again in a few seconds.")
    return schemas.Readiness(evidence_version=current.evidence_version, broker=doorbell.broker())


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={
        **documented(),
        200: {
            "description": "Prometheus text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
    },
)
def metrics(exposition: MetricsDep) -> Response:
    """Requests, latencies, freshness of the evidence, quarantined scores; imports, jobs, webhooks, broker."""
    return Response(exposition.text(), media_type=CONTENT_TYPE_LATEST)
