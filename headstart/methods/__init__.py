"""The table of contents: every method, by name. A file in this folder that is not listed fails a test."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from headstart.errors import InvalidInput
from headstart.method import Method
from headstart.methods import (
    finetune,
    free_energy,
    gbc,
    hscore,
    knn,
    leep,
    linear_probe,
    logme,
    nce,
    transrate,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        finetune.METHOD,
        linear_probe.METHOD,
        knn.METHOD,
        logme.METHOD,
        hscore.METHOD,
        gbc.METHOD,
        transrate.METHOD,
        leep.METHOD,
        nce.METHOD,
        free_energy.METHOD,
    )
}


def known_methods(modules: Sequence[str]) -> dict[str, Method]:
    """All methods by name: our own, and the METHOD of each module the settings name.

    Raises InvalidInput for a module that cannot be imported, has no METHOD, or takes a name that is taken.
    """
    known = dict(METHODS)
    for name in modules:
        try:
            method = import_module(name).METHOD
        except (ImportError, AttributeError) as error:
            raise InvalidInput(
                f"HEADSTART_METHODS names {name!r}, which cannot be used: {error}. It has to be an "
                "importable module with a METHOD."
            ) from None
        if not isinstance(method, Method) or method.name in known:
            raise InvalidInput(
                f"HEADSTART_METHODS names {name!r}, whose METHOD is no Method or takes a name that is taken."
            )
        known[method.name] = method
    return known


__all__ = ["METHODS", "known_methods"]
