"""Every route and the scope it asks for."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any

from live_service import settings

from headstart.store import Store
from service.app import create_app

# What each route asks for. A new route is added here by hand, so that somebody has thought of it.
EXPECTED = {
    "GET /healthz": None,
    "GET /readyz": None,
    "GET /docs": None,
    "GET /docs/oauth2-redirect": None,
    "GET /redoc": None,
    "GET /openapi.json": None,
    "GET /metrics": "read",
    "POST /recommend": "read",
    "GET /families": "read",
    "GET /families/{name}": "read",
    "GET /families/{name}/ranking": "read",
    "POST /families/{name}/probe": "run",
    "GET /families/{name}/regions": "read",
    "GET /families/{name}/regions/map.png": "read",
    "POST /families/{name}/regions": "run",
    "POST /families/{name}/centroids": "run",
    "POST /families/{name}/region-study": "run",
    "GET /checkpoints": "read",
    "POST /checkpoints": "run",
    "GET /checkpoints/{checkpoint_id}": "read",
    "PATCH /checkpoints/{checkpoint_id}": "admin",
    "GET /targets": "read",
    "GET /targets/{target_id}": "read",
    "POST /targets": "run",
    "POST /targets/{target_id}/race": "run",
    "GET /scores": "read",
    "GET /scores/{score_id}": "read",
    "PATCH /scores/{score_id}": "admin",
    "GET /methods": "read",
    "GET /methods/{name}": "read",
    "GET /imports": "read",
    "GET /imports/{import_id}": "read",
    "POST /imports": "run",
    "GET /jobs": "read",
    "GET /jobs/{job_id}": "read",
    "GET /jobs/{job_id}/events": "read",
    "POST /jobs": "run",
    "POST /jobs/batch": "run",
    "POST /jobs/{job_id}/cancel": "run",
    "POST /jobs/{job_id}/retry": "run",
    "GET /deliveries": "read",
    "GET /deliveries/{delivery_id}": "read",
    "POST /deliveries/{delivery_id}/redeliver": "admin",
}


def routes() -> dict[str, tuple[str, str]]:
    """Every route there is, as documented -> its verb, and a path that it takes."""
    with closing(Store("sqlite://")) as store:
        found: Any = create_app(settings(), store).routes
    return {
        f"{verb} {re.sub(r':[a-z]+}', '}', route.path)}": (verb, re.sub(r"{.*?}", "7", route.path))
        for route in found
        for verb in sorted(route.methods - {"HEAD"})
    }
