"""The table of contents of what jobs do beside scoring: every procedure, by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from headstart.method import Procedure
from headstart.procedures import centroid, keep, race, region_study, regions

if TYPE_CHECKING:
    from collections.abc import Sequence

_LISTED: tuple[Procedure, ...] = (
    race.RACE,
    keep.KEEP,
    centroid.CENTROID,
    regions.REGIONS,
    region_study.REGION_STUDY,
)
PROCEDURES: dict[str, Procedure] = {procedure.name: procedure for procedure in _LISTED}


def known_procedures(modules: Sequence[str]) -> dict[str, Procedure]:
    """All procedures by name: our own, and the PROCEDURE of each module of HEADSTART_METHODS that has one.

    The modules are those that `headstart.methods.known_methods` has checked.
    """
    brought = (getattr(import_module(name), "PROCEDURE", None) for name in modules)
    return {one.name: one for one in brought if isinstance(one, Procedure)} | PROCEDURES


__all__ = ["PROCEDURES", "known_procedures"]
