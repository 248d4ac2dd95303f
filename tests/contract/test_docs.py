"""The docs are held against the code: settings, routes, reasons, columns, files."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest

from headstart.evidence.quality import REASONS
from headstart.methods import METHODS
from headstart.settings import Settings
from headstart.store import Store
from service.app import create_app

ROOT = Path(__file__).parents[2]


def read(name: str) -> str:
    return (ROOT / name).read_text()


def test_every_setting_is_documented_with_its_default() -> None:
    page = read("docs/settings.md")
    documented = set(re.findall(r"^\| `(HEADSTART_\w+)`", page, re.MULTILINE))
    assert documented == {f"HEADSTART_{name.upper()}" for name in Settings.model_fields}
    for name in ("host", "port", "open_bind", "embedded_worker"):
        default = str(Settings.model_fields[name].default).lower()
        assert re.search(rf"^\| `HEADSTART_{name.upper()}` \| `{re.escape(default)}`", page, re.MULTILINE), (
            name
        )


def test_every_route_is_documented_and_no_other() -> None:
    with closing(Store("sqlite://")) as store:
        document = create_app(Settings(starter="", embedded_worker=False), store).openapi()
    routes = {f"{verb.upper()} {path}" for path, verbs in document["paths"].items() for verb in verbs}
    listed = set(re.findall(r"^\| `([A-Z]+ /\S*)`", read("docs/http.md"), re.MULTILINE))
    assert listed == {route.replace(":path", "") for route in routes}


def test_every_reason_found_in_the_published_tables_is_explained() -> None:
    page = read("README.md") + read("docs/import.md")
    assert [reason for reason in REASONS if f"`{reason}`" not in page and reason != "manual"] == []


def test_every_method_is_explained() -> None:
    page = read("docs/import.md") + read("docs/probes.md")
    assert [name for name in METHODS if f"`{name}`" not in page] == []


@pytest.mark.parametrize(
    "page", ["README.md", "ARCHITECTURE.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_and_files_named_exist(page: str) -> None:
    text = read(page)
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    missing = [link for link in linked if not ((ROOT / page).parent / link).exists()]
    named = re.findall(
        r"`((?:tests|headstart|service|worker|bench|docs|migrations)/[\w/]+(?:\.\w+|/))`", text
    )
    missing += [name for name in named if not (ROOT / name).exists()]
    assert missing == []
