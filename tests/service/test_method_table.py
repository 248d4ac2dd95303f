"""The table of contents of the methods is complete, and each says what it is."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import headstart.methods
from headstart.methods import METHODS

FILES = sorted(p.stem for p in Path(headstart.methods.__file__).parent.glob("*.py") if p.stem != "__init__")


@pytest.mark.parametrize("file", FILES)
def test_every_file_is_listed(file: str) -> None:
    module = import_module(f"headstart.methods.{file}")
    assert METHODS[module.METHOD.name] is module.METHOD
    for part in ("What:", "Unit:", "Range:", "Source:", "When it does not apply:", "Where we deviate:"):
        assert part in (module.__doc__ or "")


def test_every_listed_method_has_a_file_of_its_name() -> None:
    assert sorted(METHODS) == FILES
    for name, method in METHODS.items():
        assert method.name == name
        assert method.range[0] < method.range[1]


def test_importing_the_service_pulls_in_no_torch() -> None:
    probe = (
        "import sys, service.app, service.cli, service.serving, headstart.evidence.ingest, headstart.refit; "
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_starting_the_service_imports_nothing_heavy_before_it_answers() -> None:
    heavy = ("pyarrow", "headstart.evidence.ingest")
    probe = f"import sys, service.serving; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
