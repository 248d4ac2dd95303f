"""Keep: a finetune whose result becomes a checkpoint of its base's family.

What: the finetune that a job of the method `finetune` makes, to the bit; its score is stored under that job's
key, and the weights that validated best are written and registered as a checkpoint, with a new revision.
Source: such intermediate checkpoints are what Choshen et al., "Where to start?", EMNLP 2023 (arXiv
2211.00107) start finetunes from, and what the regions of Gueta et al. 2023 (arXiv 2302.04863) are made of.

A finetune that collapsed is not kept: its score stands in quarantine, and the job is not applicable.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from headstart.checkpoints.place import is_hub_id
from headstart.failures import NotApplicable
from headstart.method import Params, Procedure
from headstart.methods import finetune
from headstart.methods.finetune import FinetuneParams, judged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headstart.workbench import FinetuneSpec, Outputs, Workbench

NAMES = (
    "A kept checkpoint is called NAME or OWNER/NAME: letters, digits, '.', '_' and '-', 96 of each at most, "
    "beginning with a letter or digit, and not a number alone."
)
TOLD = ("metric", "validation", "seed", "learning_rate", "steps")  # of the details


def is_plain_name(name: str) -> bool:
    """Whether a checkpoint that is kept can be called so: no path, no number (that would be an id)."""
    return is_hub_id(name) and not name.isdecimal()


def _plain(name: str) -> str:
    if not is_plain_name(name):
        raise ValueError(NAMES)
    return name


PlainName = Annotated[str, AfterValidator(_plain)]


class KeepParams(Params):
    """What the checkpoint is called, and the recipe."""

    name: PlainName = Field(description="Of the new checkpoint: NAME or OWNER/NAME.")
    finetune: FinetuneParams = Field(default_factory=FinetuneParams, description="The recipe.")


def run(bench: Workbench, params: KeepParams) -> dict[str, Any]:
    """Finetune, store the score, and keep the checkpoint.

    Raises: NotApplicable where the finetune collapsed, and what a finetune or the disk raises.
    """
    found = finetune.run(bench, params.finetune)
    seconds = sum(one["seconds"] for one in finetune.runs_of(found.details))
    bench.keep_score(bench.checkpoint, finetune.METHOD, params.finetune, bench.seed, found, seconds)
    if found.quarantine is not None:
        raise NotApplicable(
            f"The finetune came to nothing, and was not kept. {found.quarantine_note or ''}".strip(),
            "Ask for a lower learning_rate or another seed.",
        )
    classes, metric = bench.target.task != "regression", bench.target.metric

    def judge(outputs: Outputs) -> float:
        return judged(outputs, metric, classes=classes)

    score = {"value": found.value, "stderr": found.stderr, "rows_tested": found.rows_tested}
    score |= {name: found.details[name] for name in TOLD}
    card = {"score": score, "recipe": params.finetune.model_dump(mode="json")}
    spec = taken(params.finetune, bench.seed, found.details)
    return {"checkpoint": bench.keep_checkpoint(spec, judge, params.name, card), "score": score}


def taken(params: FinetuneParams, seed: int, details: Mapping[str, Any]) -> FinetuneSpec:
    """What the run was asked for whose value the score has: the first one, or the gentler one after it."""
    first = params.spec(seed)
    if details["seed"] == seed:
        return first
    return replace(first, seed=details["seed"], learning_rate=details["learning_rate"])


KEEP = Procedure(
    name="keep",
    version="1",
    needs=("finetune", "labelled rows"),
    summary="A finetune whose result becomes a checkpoint.",
    params=KeepParams,
    run=run,
)
