"""Targets with data on the wire: what one is made of, and what was counted in its rows."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.json_schema import SkipJsonSchema

from headstart.targets.spec import TargetSpec
from service.advice_schemas import Number
from service.job_schemas import LARGEST_SEED
from service.schemas import CLEAN, Name, Target

HUB_ID = r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,95}/)?[A-Za-z0-9][A-Za-z0-9_.-]{0,95}$"
REVISION = r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,199}$"
Share = Annotated[float, Field(gt=0, lt=0.5), Number]
OptionalName = Name | SkipJsonSchema[None]


def _left_out(schema: dict[str, Any]) -> None:
    """Tell of a field that may be left out, and not that it may be null."""
    schema |= schema.pop("anyOf")[0]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TargetColumns(_In):
    """Which columns hold what, where they do not have one of the usual names."""

    model_config = ConfigDict(json_schema_extra={"dependentRequired": {"text_pair": ["text"]}})

    text: OptionalName = Field(None, description="The text, or the first one of a pair.")
    text_pair: OptionalName = Field(None, description="The second text of a pair; needs `text`.")
    label: OptionalName = Field(None, description="Text or whole numbers: classes; fractions: a regression.")

    @model_validator(mode="after")
    def _pair_needs_text(self) -> Self:
        if self.text_pair is not None and self.text is None:
            raise ValueError("text_pair needs text: name the columns of both texts")
        return self


class HubSplits(_In):
    """Which split of the dataset is which role."""

    train: Name
    validation: OptionalName = None
    test: OptionalName = None


class HubDataset(_In):
    """A dataset of the hub."""

    id: Annotated[str, StringConstraints(pattern=HUB_ID)] = Field(
        description="OWNER/NAME, or NAME.", examples=["nyu-mll/glue"]
    )
    config: OptionalName = Field(None, description="Needed where the dataset has several.", examples=["rte"])
    revision: Annotated[str, StringConstraints(pattern=REVISION)] | SkipJsonSchema[None] = Field(
        None, description="A branch, tag or commit; left out: the main branch. The profile names the commit."
    )
    splits: HubSplits | None = Field(
        None,
        description="Left out: told from their names; without a labelled test, validation is the test.",
        json_schema_extra=_left_out,
    )


class TargetOptions(_In):
    """A target whose rows are uploaded beside it."""

    name: Name = Field(description="It is listed and asked for by this name.", examples=["rte"])
    task: Literal["classification", "regression"] | SkipJsonSchema[None] = Field(
        None, description="Left out: told from the labels."
    )
    metric: Literal["accuracy", "macro_f1", "matthews", "spearman", "pearson"] | SkipJsonSchema[None] = Field(
        None,
        description="accuracy (if left out), macro_f1 or matthews of a classification; spearman (if left "
        "out) or pearson of a regression.",
    )
    columns: TargetColumns | None = Field(
        None, description="Left out: the usual names.", json_schema_extra=_left_out
    )
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED), Number] = Field(
        0, description="Of what is split off train where a role is missing."
    )
    validation_share: Share = Field(0.1, description="Of train's rows, where there is no validation.")
    test_share: Share = Field(0.2, description="Of train's rows, where there is no test.")

    def spec(self) -> dict[str, Any]:
        """What the importer is told."""
        given = self.model_dump(exclude_none=True, exclude={"path"})
        return TargetSpec.model_validate(given).model_dump(exclude_none=True)


class TargetRequest(TargetOptions):
    """A target to make of rows: those of a path or of the hub, one of the two."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["path"]}, {"required": ["hub"]}],
            "examples": [
                {"name": "tickets", "path": "/data/tickets"},
                {"name": "rte", "hub": {"id": "nyu-mll/glue", "config": "rte"}},
            ],
        }
    )

    path: (
        Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=CLEAN)] | SkipJsonSchema[None]
    ) = Field(
        None,
        description="A file, or a folder with train, validation and test files, under one of the folders in "
        "HEADSTART_ROOTS; or the http(s) URL of a file.",
        json_schema_extra={"format": "import-source"},
    )
    hub: HubDataset | None = Field(None, description="Read by a worker.", json_schema_extra=_left_out)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give either path or hub, or upload files in a form")
        return self


class TargetDetail(Target):
    """A target with what was counted in its rows."""

    profile: dict[str, Any] | None = Field(
        description="Rows, classes, balance, lengths, duplicates, overlap, warnings; null where the store "
        "holds no rows of it."
    )


def inlined_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a body that a route reads by itself, without references."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inline(node: Any) -> Any:
        if isinstance(node, list):
            return [inline(one) for one in node]
        if not isinstance(node, dict):
            return node
        referred = definitions[node["$ref"].rpartition("/")[2]] if "$ref" in node else {}
        return {key: inline(one) for key, one in (referred | node).items() if key != "$ref"}

    return inline(schema)  # type: ignore[no-any-return]
