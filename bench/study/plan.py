"""What the study measures: a pool of intermediate checkpoints, and finetunes of each on a grid of targets.

Everything is of the family of all-MiniLM-L6-v2. An intermediate is the vanilla finetuned on one source and
kept; where a source has several seeds, they tell what the seed alone does and what a region is. A cell of
the grid is a checkpoint finetuned on 1,000 rows of a target (the few-shot setting of Gueta et al. 2023,
arXiv 2302.04863); vanilla and candidates share seeds, so that gains are paired.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

FAMILY = VANILLA = "minilm"

# The first twelve are the candidates of the race.
SOURCES = (
    "snli_devtest",
    "sst2",
    "goemotions",
    "clinc150",
    "ag_news",
    "tweeteval_sentiment",
    "sick_e",
    "tweeteval_offensive",
    "tweeteval_emoji",
    "lingnli",
    "trec_coarse",
    "isear",
    "banking77",
    "dbpedia14",
    "tweeteval_hate",
)  # not cola: of 4,000 rows this body learns nothing, and both tries collapsed
SEVERAL = SOURCES[:5]  # sources of three seeds each
RACED = "tweeteval_emotion"
TARGETS = (
    RACED,
    "snli_cad",
    "tweeteval_irony",
    "financial_phrasebank",
    "trec_fine",
    "cola",
    "isear",
    "mpqa",
    "tweeteval_hate",
    "mnli_devm",
    "sst5",
    "banking77",
    "subj",
    "rte",
)
# Sets that share sentences: a checkpoint of one says nothing about another.
SHARED = (
    frozenset({"mr", "sst2", "sst5", "subj"}),
    frozenset({"trec_coarse", "trec_fine"}),
    frozenset({"lingnli", "mnli_devm"}),
)
INTERMEDIATE = {
    "max_train_rows": 4000,
    "epochs": 2,
    "batch_rows": 32,
    "learning_rate": 1e-4,
    "max_tokens": 128,
}
INTERMEDIATE |= {"max_rows": 500}  # to validate and to test on: the checkpoint is what counts
CELL = {"max_train_rows": 1000, "epochs": 4, "batch_rows": 32, "learning_rate": 1e-4, "max_tokens": 128}
CELL |= {"max_rows": 1000, "evaluations": 2}
RACED_SEEDS = 5
POOL, RACE, GRID = 30, 20, 0  # priorities


def intermediate(source: str, seed: int) -> str:
    """The name of a member of the pool."""
    return f"{FAMILY}-{source}-{seed}"


def members() -> list[tuple[str, int]]:
    """Source and seed of every member of the pool: what regions need first, then the other sources."""
    seeds = [(one, seed) for seed in range(3) for one in SEVERAL]
    return seeds + [(one, 0) for one in SOURCES if one not in SEVERAL]


def shares(source: str, target: str) -> bool:
    """Whether the two are one set, or hold the same sentences."""
    return source == target or any({source, target} <= group for group in SHARED)


def pool() -> Iterator[dict[str, Any]]:
    """Jobs that make the pool."""
    for source, seed in members():
        yield _job(VANILLA, source, seed, INTERMEDIATE, POOL) | {"keep": intermediate(source, seed)}


def race() -> Iterator[dict[str, Any]]:
    """Every candidate of the race finetuned to its end, seed by seed: what a race is held to."""
    for seed in range(RACED_SEEDS):
        for name in (VANILLA, *(intermediate(one, 0) for one in SOURCES[:12])):
            yield _job(name, RACED, seed, CELL, RACE)


def grid() -> Iterator[dict[str, Any]]:
    """Target by target, the vanilla with five seeds and every member with one."""
    for target in TARGETS:
        for seed in range(5):
            yield _job(VANILLA, target, seed, CELL, GRID)
        for source, seed in members():
            if not shares(source, target):
                yield _job(intermediate(source, seed), target, 0, CELL, GRID)


def _job(checkpoint: str, target: str, seed: int, params: dict[str, Any], priority: int) -> dict[str, Any]:
    return {
        "method": "finetune",
        "checkpoint": checkpoint,
        "family": FAMILY,
        "target": target,
        "seed": seed,
        "params": params,
        "priority": priority,
    }


PARTS = {"pool": pool, "race": race, "grid": grid}
