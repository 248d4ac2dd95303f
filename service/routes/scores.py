"""GET /scores, one score, and its quarantine."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from service import schemas
from service.deps import StoreDep, WakeDep
from service.errors import documented

router = APIRouter(tags=["evidence"])
ScoreId = Annotated[schemas.Id, Path(examples=[1])]


@router.get("/scores", summary="List the scores", responses=documented(404))
def list_scores(store: StoreDep, query: Annotated[schemas.ScoreQuery, Query()]) -> schemas.ScorePage:
    """All stored measurements, oldest first; `quarantined=true` shows what is left out, and why."""
    page = store.scores(
        family=query.family,
        checkpoint_id=query.checkpoint_id,
        target_id=query.target_id,
        method=query.method,
        quarantined=query.quarantined,
        page_size=query.page_size,
        page_token=query.page_token,
    )
    return schemas.ScorePage(
        items=[schemas.Score.model_validate(one) for one in page.items], next_page_token=page.next_token
    )


@router.get("/scores/{score_id}", summary="Show a score", responses=documented(404))
def show_score(store: StoreDep, score_id: ScoreId) -> schemas.Score:
    """One measurement by its id."""
    return schemas.Score.model_validate(store.score(score_id))


@router.patch(
    "/scores/{score_id}", summary="Quarantine a score, or lift it", responses=documented(400, 404, 409, 415)
)
def change_quarantine(
    store: StoreDep, wake: WakeDep, score_id: ScoreId, change: schemas.QuarantineChange
) -> schemas.Score:
    """Leave a score out of the evidence for a reason, or (`null`) take it back; advice follows in seconds."""
    score = store.set_quarantine(score_id, change.quarantine, change.note)
    wake()
    return schemas.Score.model_validate(score)
