"""What jobs will take, told before they are submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from headstart.entities import SubmissionStatus
from headstart.recommend import prices
from headstart.recommend.prices import NOTHING, Price, together
from headstart.recommend.rates import Rates, learn
from service.keeping import measured

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from headstart.entities import Target
    from headstart.store import Store
    from service.jobs import Foreseen

MOST_TIMINGS = 1_000  # newest scores that rates are learnt from: of older ones nothing would be left


class Quote(NamedTuple):
    """What would become of a request, and what it would take."""

    status: SubmissionStatus
    price: Price


def rates_of(store: Store) -> Rates:
    """What the newest scores that were measured here tell of the time that jobs take."""
    return learn(store.timings(MOST_TIMINGS))


def price_of(
    rates: Rates,
    method: str,
    params: BaseModel | Mapping[str, Any],
    parameters: int | None,
    target: Target | None,
    *,
    cached: bool = False,
) -> Price:
    """The price of one job by a method with all its parameters; see `headstart.recommend.prices`.

    `parameters`: of the checkpoint, None where nobody knows; `cached`: its features will be there.
    """
    given = params.model_dump(mode="json") if isinstance(params, BaseModel) else params
    return prices.price_of(rates, method, given, parameters, target, cached=cached)


def quotes(rates: Rates, foreseen: Iterable[Foreseen]) -> tuple[Quote, ...]:
    """The price of each request, in their order; nothing for what is scored or under way.

    Probes that look at the same features share them: the first of them pays.
    """
    made: set[tuple[Any, ...]] = set()
    found = []
    for one in foreseen:
        if one.status is not SubmissionStatus.QUEUED:
            found.append(Quote(one.status, NOTHING))
            continue
        draft, size = one.draft, None if one.checkpoint is None else one.checkpoint.parameters
        method, params = measured(draft)
        passes = {(draft.checkpoint_id, draft.target_id, *each) for each in prices.passes(method, params)}
        cached = bool(passes) and passes <= made
        made |= passes
        price = price_of(rates, method, params, size, one.target, cached=cached)
        found.append(Quote(one.status, price))
    return tuple(found)


__all__ = ["NOTHING", "Price", "Quote", "Rates", "price_of", "quotes", "rates_of", "together"]
