"""What a target is to be made of, apart from the rows themselves; kept as the `params` of its import."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from headstart.workbench import Role

Task = Literal["classification", "regression"]
METRICS: dict[Task, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1", "matthews"),
    "regression": ("spearman", "pearson"),
}
"""The metrics of a task, the default first."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Columns(_Frozen):
    """Which columns hold what. None: one of the usual names, see `headstart.targets.columns`."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None


class Hub(_Frozen):
    """A dataset of the hub."""

    id: str
    config: str | None = None
    revision: str | None = None  # a commit, tag or branch; None: the newest
    splits: dict[Role, str] | None = None  # role -> split; None: told from the names of the splits


class TargetSpec(_Frozen):
    """A target, before its rows are read."""

    name: str
    task: Task | None = None  # None: told from the labels
    metric: str | None = None  # None: the first of METRICS
    columns: Columns = Columns()
    seed: int = 0  # of what is split off train
    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = (
        0.1  # of train's rows, where there is no validation
    )
    test_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.2  # of train's rows, where there is no test
    hub: Hub | None = None
