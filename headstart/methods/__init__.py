"""The table of contents: every method, by name. A file in this folder that is not listed fails a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstart.methods import finetune, linear_probe

if TYPE_CHECKING:
    from headstart.method import Method

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        finetune.METHOD,
        linear_probe.METHOD,
    )
}

__all__ = ["METHODS"]
