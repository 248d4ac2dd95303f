"""The model card of a finetune that was kept: where it comes from, for people and for the hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headstart.checkpoints.card import clean
from headstart.checkpoints.place import is_hub_id, place_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from headstart.entities import Checkpoint, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What a finetune came from and came to."""

    name: str
    base: Checkpoint
    digest: str  # of the base's files
    target: Target
    rows: Mapping[str, int]  # of each role
    classes: tuple[str, ...] | None
    score: Mapping[str, Any]  # value, stderr, rows_tested, metric, validation, seed, ...
    recipe: Mapping[str, Any]
    step: int  # whose weights they are
    steps: int  # planned
    versions: Mapping[str, str]
    made_at: datetime
    use: str  # how the outputs are to be read


def kept_card(told: Provenance) -> str:
    """The card, with front matter that `headstart.checkpoints.card` and the hub read."""
    score = told.score
    spread = "" if score.get("stderr") is None else f" ± {score['stderr']:.4f}"
    revision = place_of(told.base).revision or told.digest
    facts = {
        "base": f"{told.base.name}, {revision}",
        "digest of the base's files": told.digest,
        "family": told.base.family,
        "target": f"{told.target.name}, {told.target.fingerprint}",
        "rows": ", ".join(f"{count} {role}" for role, count in told.rows.items()),
        "classes": "none: a regression" if told.classes is None else ", ".join(told.classes),
        f"{score.get('metric')} on test": f"{score['value']:.4f}{spread} ({score.get('rows_tested')} rows)",
        f"{score.get('metric')} on validation": f"{score['validation']:.4f}",
        "weights of step": f"{told.step} of {told.steps} planned",
        "seed": score.get("seed"),
        "made by": ", ".join(f"{name} {version}" for name, version in told.versions.items()),
        "made at": f"{told.made_at:%Y-%m-%d %H:%M:%S} UTC",
    }
    table = "\n".join(f"| {_cell(name)} | {_cell(fact)} |" for name, fact in facts.items())
    return f"""---
{_front_matter(told.base)}
---

# {_cell(told.name)}

A finetune that Headstart kept as a start for others. {told.use}

| | |
|---|---|
{table}

The recipe:

```json
{json.dumps(told.recipe, indent=2, sort_keys=True)}
```
"""


def _front_matter(base: Checkpoint) -> str:
    told: dict[str, Any] = {}
    if is_hub_id(base.name):
        told |= {"base_model": base.name, "base_model_relation": "finetune"}
    if base.license:
        told["license"] = base.license
    told |= {"library_name": "transformers", "tags": ["headstart"]}
    return "\n".join(f"{name}: {json.dumps(value)}" for name, value in told.items())


def _cell(value: Any) -> str:
    """Foreign words as a cell of a table holds them."""
    return clean(value).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
