"""Mixtures as checkpoints: one that is kept and registered, and one for the length of a job."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from headstart import __version__
from headstart.checkpoints.files import CARD
from headstart.checkpoints.mixture_card import Member, MixtureProvenance, mixture_card, shared_license
from headstart.failures import NotApplicable
from worker.checkpoints import read_folder
from worker.describing import draft_of
from worker.keeping import publish
from worker.mixing import STAGE, write_mixture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from headstart.entities import Checkpoint, CheckpointDraft
    from worker.checkpoints import CheckpointFiles
    from worker.mixing import MixFacts, Report

NAMED = 16  # digits of what is mixed, in a folder's name
_TOLD = {
    "rule": "centroid_rule",
    "weights": "centroid_weighed",
    "region": "centroid_region",
    "target": "centroid_target",
    "left_out": "centroid_left_out",
}
MADE_BY = "1"  # raised whenever equal members could give another mixture


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What is mixed: checkpoints, their files on this machine, and their shares."""

    members: Sequence[Checkpoint]
    files: Sequence[CheckpointFiles]  # of each member
    weights: Sequence[float]  # of each member; they sum to 1
    vanilla: Checkpoint
    base: CheckpointFiles  # the vanilla's

    def write(self, folder: Path, report: Report) -> MixFacts:
        """The mixture's files but for its card. Raises as `write_mixture`."""
        names = [member.name for member in self.members]
        return write_mixture(self.files, self.weights, folder, base=self.base, report=report, names=names)

    def key(self) -> str:
        """The same for the same mixture of the same files."""
        told = {
            "made_by": MADE_BY,
            "base": self.base.digest,
            "members": [one.digest for one in self.files],
            "weights": list(self.weights),
        }
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:NAMED]


def keep_mixture(
    mixture: Mixture, name: str, told: Mapping[str, Any], report: Report, *, root: Path
) -> CheckpointDraft:
    """Write a mixture with its card under the root, and describe it.

    Raises: what `write_mixture` raises, NotApplicable (it is one of its members, or all of them are one),
    Interrupted (the disk does not take it).
    """

    _check_several(mixture)

    def write(folder: Path) -> None:
        facts = mixture.write(folder, report)
        _check_new(mixture, read_folder(folder, roots=[root], pickles=False))
        (folder / CARD).write_text(mixture_card(_provenance(mixture, name, told, facts)), encoding="utf-8")

    slug = name.replace("/", "--")
    files = publish(root, slug, write, lambda: report(1.0, "keeping the mixture", ""), what="mixture")
    return _draft(mixture, name, told, files, root)


def mixture_in(root: Path, mixture: Mixture, report: Report) -> CheckpointFiles:
    """A mixture's files under the root, written where they are not there yet.

    Raises: what `write_mixture` raises, Interrupted (the disk does not take it).
    """
    key = mixture.key()
    for made in sorted(root.glob(f"{key}-*")):
        return read_folder(made, roots=[root], pickles=False)

    def write(folder: Path) -> None:
        mixture.write(folder, report)

    return publish(root, key, write, lambda: report(1.0, STAGE, ""), what="mixture")


def _check_several(mixture: Mixture) -> None:
    """Members of several ids may be one checkpoint, registered twice."""
    counting = [
        (member, files.digest)
        for member, files, weight in zip(mixture.members, mixture.files, mixture.weights, strict=True)
        if weight != 0
    ]
    if len(counting) > 1 and len({digest for _, digest in counting}) == 1:
        names = ", ".join(repr(member.name) for member, _ in counting[:3])
        raise NotApplicable(
            f"The members that count ({names}) are the same files: their mixture would be a copy.",
            "Start from one of them, or mix others.",
        )


def _check_new(mixture: Mixture, made: CheckpointFiles) -> None:
    of_all = zip((mixture.vanilla, *mixture.members), (mixture.base, *mixture.files), strict=True)
    same = next((checkpoint for checkpoint, files in of_all if files.digest == made.digest), None)
    if same is not None:
        raise NotApplicable(
            f"The mixture is {same.name!r}, file for file: nothing new would be registered.",
            "Start from that checkpoint, or mix others.",
        )


def _provenance(mixture: Mixture, name: str, told: Mapping[str, Any], facts: MixFacts) -> MixtureProvenance:
    members = [
        Member(checkpoint=member, digest=files.digest, weight=weight)
        for member, files, weight in zip(mixture.members, mixture.files, mixture.weights, strict=True)
    ]
    return MixtureProvenance(
        name=name,
        vanilla=mixture.vanilla,
        digest=mixture.base.digest,
        members=members,
        told=told,
        filled=facts.filled,
        versions={"headstart": __version__, "torch": version("torch")},
        made_at=datetime.now(UTC),
    )


def _draft(
    mixture: Mixture, name: str, told: Mapping[str, Any], files: CheckpointFiles, root: Path
) -> CheckpointDraft:
    """As the import of such a folder would describe it, and what it was made of."""
    came_from = {
        "base_model": mixture.vanilla.name,
        "base_model_told_by": "job",
        "base_id": mixture.vanilla.id,
        "base_digest": mixture.base.digest,
        "centroid_of": [member.id for member in mixture.members],
        "centroid_names": [member.name for member in mixture.members],
        "centroid_digests": [one.digest for one in mixture.files],
        "centroid_weights": list(mixture.weights),
        **{_TOLD[key]: value for key, value in told.items() if key in _TOLD and value not in (None, [], ())},
    }
    return draft_of(
        files,
        root,
        family=mixture.vanilla.family,
        name=name,
        license=shared_license(mixture.vanilla, mixture.members),
        came_from=came_from,
    )
