"""The service with two routes more: POST /constant validates the same question and returns fixed bytes, and
GET /cpu tells the CPU seconds of the process.

Run as `python -m bench.server STORE_URL SIZE`; prints its port. One process, as `headstart serve`.
"""

import socket
import sys
import time

import uvicorn
from fastapi import Response
from fastapi.routing import APIRoute
from pydantic import SecretStr

from headstart.settings import Settings
from headstart.store import Store
from service.advice_schemas import Question
from service.app import create_app


def main(url: str, size: int) -> None:
    """Serve until killed."""
    body = b"x" * size
    settings = Settings(store=SecretStr(url), embedded_worker=False, starter="")

    async def constant(question: Question) -> Response:  # validated, and that is the point
        return Response(body, media_type="application/json")

    async def cpu() -> float:
        return time.process_time()

    app = create_app(settings, Store(url))
    app.router.routes.insert(0, APIRoute("/constant", constant, methods=["POST"], response_model=None))
    app.router.routes.insert(0, APIRoute("/cpu", cpu))
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="error")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
