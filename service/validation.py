"""From what pydantic and json say about a request to problems that name the field and the remedy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from headstart.errors import InvalidInput, Problem, nearest_names
from service.errors import UnreadableBody, UnsupportedMediaType

if TYPE_CHECKING:
    from fastapi.exceptions import RequestValidationError
    from starlette.requests import Request

ModelT = TypeVar("ModelT", bound=BaseModel)
Errors = Sequence[Mapping[str, Any]]

_SUBJECT = re.compile(r"^(Input|String|Value|List|Dictionary|Number|Object) should ")
# pydantic's words, not the user's
_UNION_TAG = re.compile(r"(constrained-)?(str|int|float|bool)|none|function-.*|(str-enum|literal)\[.*\]")
_JSON_TYPE = re.compile(r"application/(json|[\w.+-]+\+json)\s*(;.*)?", re.IGNORECASE)


def is_json(content_type: str | None) -> bool:
    """Say whether a Content-Type header announces JSON."""
    return bool(content_type and _JSON_TYPE.fullmatch(content_type.strip()))


def read_json(body: bytes, content_type: str | None, model: type[ModelT]) -> ModelT:
    """Parse a body that a route reads by itself; raise what FastAPI's own reading would lead to."""
    if not is_json(content_type):
        raise wrong_content_type(content_type)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False), model) from None


def invalid(errors: Errors, model: Any) -> InvalidInput:
    """Turn pydantic's errors on `model` into ours."""
    for error in errors:
        if error["type"] == "json_invalid":
            return _bad_json(str(error.get("ctx", {}).get("error", error["msg"])))
    return _invalid_input([_problem(error, tuple(error["loc"]), model) for error in _told(errors)])


def from_request_validation(request: Request, error: RequestValidationError) -> InvalidInput:
    """Turn FastAPI's errors on a request (body, query, path and header) into ours."""
    route = request.scope.get("route")
    found: list[Problem] = []
    for item in _told(error.errors()):
        place, *rest = item["loc"]
        if item["type"] == "json_invalid":
            return _bad_json(f"{item['ctx']['error']} at character {rest[0] if rest else 0}")
        if place == "body" and not rest and isinstance(item.get("input"), bytes):
            return wrong_content_type(request.headers.get("content-type"))
        loc = tuple(rest) if rest else (place,)
        found.append(_problem(item, loc, _model_of(route, str(place))))
    return _invalid_input(found)


def unreadable(cause: Exception) -> UnreadableBody:
    """Say why a body could not be parsed at all."""
    if isinstance(cause, UnicodeDecodeError):
        return UnreadableBody(
            f"The body is not UTF-8: byte {cause.start} cannot be decoded. Send JSON encoded as UTF-8."
        )
    if isinstance(cause, RecursionError):
        return UnreadableBody("The body is nested too deeply. Send a flat JSON object.")
    if isinstance(cause, ValueError) and not isinstance(cause, json.JSONDecodeError):
        return UnreadableBody("The body holds a number with too many digits. Send a smaller number.")
    return _bad_json(str(cause))


def wrong_content_type(
    content_type: str | None,
    takes: str = "JSON. Send the header 'content-type: application/json'.",
) -> UnsupportedMediaType:
    """Say what a route takes instead of what it was sent."""
    given = f"is {content_type[:100]!r}" if content_type else "is missing"
    return UnsupportedMediaType(f"The Content-Type {given}, but this route takes {takes}")


def _bad_json(reason: str) -> UnreadableBody:
    if "unicode" in reason and "escape" not in reason and "surrogate" not in reason:
        return UnreadableBody(f"The body is not UTF-8: {reason}. Send JSON encoded as UTF-8.")
    return UnreadableBody(f"The body is not valid JSON: {reason}. Send one JSON object.")


def _invalid_input(problems: list[Problem]) -> InvalidInput:
    first = f"{problems[0].field}: {problems[0].message}"
    more = f" And {len(problems) - 1} more, see errors." if len(problems) > 1 else ""
    return InvalidInput(first + more, problems)


def _told(errors: Errors) -> Errors:
    """Leave out that a field could have been null, beside what is wrong with its value."""
    return [error for error in errors if error["type"] != "none_required"] or errors


def _problem(error: Mapping[str, Any], loc: tuple[Any, ...], model: Any) -> Problem:
    kind, message = error["type"], str(error["msg"])
    own = {0, len(loc) - 1} if kind == "extra_forbidden" else {0}  # the user's own words, whatever they are
    loc = tuple(part for at, part in enumerate(loc) if at in own or not _UNION_TAG.fullmatch(str(part)))
    field = ".".join(str(part)[:100] for part in loc) or "body"
    if kind == "extra_forbidden":
        known = sorted(_known_fields(model, loc[:-1]))
        nearest = nearest_names(str(loc[-1]), known)
        hint = (
            f"Did you mean {' or '.join(map(repr, nearest))}?" if nearest else f"Known: {', '.join(known)}."
        )
        return Problem(field, f"There is no such field. {hint}")
    if kind == "missing":
        return Problem(field, "This field is required. Add it.")
    if kind == "value_error":
        return Problem(field, message.removeprefix("Value error, ").rstrip(".") + ".")
    shown = _shown(error.get("input"))
    return Problem(field, f"{_SUBJECT.sub('Should ', message).rstrip('.')}{shown}.")


def _shown(value: Any) -> str:
    if isinstance(value, bool | int | float | str) or value is None:
        text = json.dumps(value) if not isinstance(value, float) else str(value)
        return f", but is {text if len(text) <= 80 else text[:79] + '…'}"
    return f", but is of type {type(value).__name__}"


def _model_of(route: Any, place: str) -> Any:
    """Find the pydantic model that a place of the request is read into, if it is one."""
    if place == "body":
        field = getattr(route, "body_field", None)
        return field.field_info.annotation if field is not None else None
    params = getattr(getattr(route, "dependant", None), f"{place}_params", None) or []
    return params[0].field_info.annotation if params else None


def _known_fields(model: Any, path: tuple[Any, ...]) -> set[str]:
    """Collect the field names of the models reached from `model` along `path`."""
    found = set(_models(model))
    for part in path:
        inner: set[type[BaseModel]] = set()
        for reached in found:
            if part in reached.model_fields:
                inner |= set(_models(reached.model_fields[part].annotation))
        found = inner or found  # a position in a list or a tag of a union stays where it is
    return {name for reached in found for name in reached.model_fields}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
