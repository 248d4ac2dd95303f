"""GET /deliveries, one delivery, and sending it again."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from service.delivery_schemas import Delivery, DeliveryPage, DeliveryQuery
from service.deps import StoreDep, WakeDep
from service.errors import documented
from service.schemas import Id

router = APIRouter(tags=["jobs"])
DeliveryId = Annotated[Id, Path(examples=[1])]
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "Accepted. Follow it at `Location`.",
        "headers": {
            "Location": {"description": "Where the delivery is.", "schema": {"type": "string"}},
            "Retry-After": {"description": "Seconds to wait before looking.", "schema": {"type": "integer"}},
        },
    }
}


@router.get("/deliveries", summary="List the webhook deliveries", responses=documented(404))
def list_deliveries(store: StoreDep, query: Annotated[DeliveryQuery, Query()]) -> DeliveryPage:
    """Every webhook that was asked for with a job, oldest first, with all its tries."""
    page = store.deliveries(
        job_id=query.job_id, state=query.state, page_size=query.page_size, page_token=query.page_token
    )
    return DeliveryPage(
        items=[Delivery.model_validate(one) for one in page.items], next_page_token=page.next_token
    )


@router.get("/deliveries/{delivery_id}", summary="Show a webhook delivery", responses=documented(404))
def show_delivery(store: StoreDep, delivery_id: DeliveryId) -> Delivery:
    """How far a delivery is, and what came of every try."""
    return Delivery.model_validate(store.delivery(delivery_id))


@router.post(
    "/deliveries/{delivery_id}/redeliver",
    summary="Send a webhook again",
    status_code=202,
    responses={**documented(404, 409), **ACCEPTED},
)
def redeliver(store: StoreDep, wake: WakeDep, response: Response, delivery_id: DeliveryId) -> Delivery:
    """Send it now under the same webhook-id, whether it has arrived or not; 409 while its job goes on."""
    delivery = store.redeliver(delivery_id)
    wake()
    response.headers.update({"Location": f"/deliveries/{delivery.id}", "Retry-After": "1"})
    return Delivery.model_validate(delivery)
