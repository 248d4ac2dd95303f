"""Webhook deliveries on the wire."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from headstart.entities import DeliveryState
from service.schemas import Id, Page, PageQuery


class DeliveryTry(BaseModel):
    """One try of a delivery."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    at: datetime = Field(description="When it had ended.")
    status: int | None = Field(description="What the receiver answered; null where no answer came.")
    error: str | None = Field(description="One sentence on why it did not arrive; null where it did.")
    seconds: float = Field(description="How long it took.")


class Delivery(BaseModel):
    """One webhook of one job: where to, how far, and every try."""

    model_config = ConfigDict(from_attributes=True, json_schema_serialization_defaults_required=True)

    id: int
    job_id: int
    url: str
    state: DeliveryState = Field(
        description="It waits for its job, is to be tried, has arrived, or never will."
    )
    tries: int = Field(description="Since the job ended, or since it was last asked to be sent again.")
    next_at: datetime | None = Field(description="When it is tried next.")
    log: list[DeliveryTry] = Field(description="The newest hundred tries, oldest first.")
    created_at: datetime


class DeliveryPage(Page[Delivery]):
    """One page of deliveries."""


class DeliveryQuery(PageQuery):
    """Which deliveries to list."""

    job_id: Id | SkipJsonSchema[None] = Field(None, description="Only of this job.")
    state: DeliveryState | SkipJsonSchema[None] = Field(None, description="Only in this state.")
