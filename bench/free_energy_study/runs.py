"""Pretrain, measure, finetune: one line of JSON a checkpoint, so that a stopped run goes on where it was."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import torch

from bench.free_energy_study.data import load
from bench.free_energy_study.measures import RADII, RADIUS, measure
from bench.free_energy_study.plan import LOOK_EVERY, MOST_STEPS, STEPS
from bench.free_energy_study.training import Trained, few_shot, finetuned, pretrain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bench.free_energy_study.data import Split
    from bench.free_energy_study.plan import Arm, Setting

FINETUNE_SEEDS, FEW_SHOT_TEST_ROWS = (0, 1), 500


def checkpoints(
    lines: Path, arms: Sequence[Arm], settings: Sequence[Setting] | None, seeds: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Everything that is known of each checkpoint, measured now or read from `lines`.

    `settings`: None for those of each arm.
    """
    told = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    known = {_key(one): one for one in told}
    splits: dict[str, Split] = {}
    for arm in arms:
        for seed in seeds:
            for setting in settings or arm.settings:
                fresh = {"arm": arm.name, "seed": seed, "setting": setting.to_dict()}
                found = known.get(_key(fresh))
                if found is None:
                    split = splits.setdefault(arm.data, load(arm.data))
                    found = fresh | _one(arm, setting, seed, split)
                    with lines.open("a") as file:
                        file.write(json.dumps(found) + "\n")
                yield found


def _key(one: dict[str, Any]) -> tuple[Any, ...]:
    return one["arm"], one["seed"], *one["setting"].values()


def _one(arm: Arm, setting: Setting, seed: int, split: Split) -> dict[str, Any]:
    began = time.process_time()
    until = arm.until
    taken = [0]

    def arrived(now: Trained) -> bool:
        taken[0] += LOOK_EVERY
        return until is not None and float(now.losses(split.pretrain).mean()) <= until

    checkpoint = pretrain(
        split.pretrain,
        rate=setting.rate,
        batch=setting.batch,
        momentum=setting.momentum,
        steps=STEPS if until is None else MOST_STEPS,
        seed=seed,
        until=None if until is None else arrived,
        every=LOOK_EVERY,
    )
    radii = RADII if arm.full else (RADIUS,)
    with torch.no_grad():
        finite = bool(torch.isfinite(checkpoint.losses(split.pretrain)).all())
    if not finite:
        return {"finite": False}
    found = measure(checkpoint, split, radii, published=arm.full, seed=0)
    full = [finetuned(checkpoint, split, one) for one in FINETUNE_SEEDS]
    few = few_shot(checkpoint, split, FEW_SHOT_TEST_ROWS)
    return {
        "finite": True,
        "steps": STEPS if until is None else taken[0],
        **found,
        "full": full,
        "few": few,
        "seconds": time.process_time() - began,
    }
