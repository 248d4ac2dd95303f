"""Write constraints.txt: one exact version for every package that any extra pulls in.

Run by `make lock` under Python 3.11, the oldest version supported, so that every pin installs on all.
Left out are the CUDA libraries that come with torch on some platforms only: torch pins those itself.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WITH_TORCH = re.compile(r"(nvidia|cuda)-|triton$|setuptools$")
HEAD = "# Exact versions for every extra. Written by `make lock`; used by make and the Dockerfile.\n"


def requirements(pyproject: Path) -> list[str]:
    """Every requirement of the project and its extras, but for references to itself."""
    project = tomllib.loads(pyproject.read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    own = project["name"]
    return sorted({line for requirements in lists for line in requirements if not line.startswith(own)})


def resolve(wanted: list[str]) -> dict[str, str]:
    """Ask pip which versions it would install into an empty environment: name -> version."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*pip, "--report", str(report), *wanted], check=True)  # noqa: S603
        installed = json.loads(report.read_text())["install"]
    # a local label such as +cpu names one build of a version; the pin must fit them all
    return {
        entry["metadata"]["name"].lower().replace("_", "-"): entry["metadata"]["version"].split("+")[0]
        for entry in installed
    }


if __name__ == "__main__":
    if sys.version_info[:2] != (3, 11):
        sys.exit(
            f"This is Python {sys.version.split()[0]}; versions are resolved for the oldest one supported. "
            "Run it with 3.11: make lock LOCK_PYTHON=python3.11"
        )
    pins = resolve(requirements(ROOT / "pyproject.toml"))
    lines = [f"{name}=={version}\n" for name, version in sorted(pins.items()) if not WITH_TORCH.match(name)]
    (ROOT / "constraints.txt").write_text(HEAD + "".join(lines))
    print(f"constraints.txt: {len(lines)} packages")
