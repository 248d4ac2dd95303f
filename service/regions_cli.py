"""`headstart regions`, `centroid` and `region-study`: what lies together, and what that is good for."""

from __future__ import annotations

import math
from pathlib import Path  # noqa: TC003 - typer reads the annotation
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service import job_tables, region_tables, tables
from service.client import Client, Refused
from service.command import DEFAULT_URL, AsJson, Url, given, print_json, quoted
from service.race_cli import finished, read_candidates

if TYPE_CHECKING:
    from collections.abc import Callable

Family = Annotated[str, typer.Argument(help="Name of the family.")]
NoWait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait for the job, or return once it is queued.")
]
Priority = Annotated[int, typer.Option(help="-100 to 100; higher is sooner.")]
Webhook = Annotated[str | None, typer.Option(help="A URL that is told when the job has ended.")]


def regions(
    family: Family,
    *,
    checkpoints: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Names or ids; left out: all that were registered or kept."),
    ] = None,
    clusters: Annotated[
        int | None, typer.Option(help="How many regions; left out: as many as the weights show.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    show: Annotated[bool, typer.Option("--show", help="Show those found last, and start no job.")] = False,
    map: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Write the map as a picture.")] = None,
    priority: Priority = 0,
    webhook: Webhook = None,
    wait: NoWait = True,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Find out which checkpoints of a family lie together in weight space.

    A worker reads the weights of each once; asked again, only new ones are read. Checkpoints whose weights
    contradict that they are of the family leave its evidence.

    Example: headstart regions roberta-base --map roberta.png

    Example: headstart regions roberta-base --show
    """
    path = f"/families/{quoted(family)}/regions"
    with Client(url) as client:
        if not show:
            request = {
                "checkpoints": read_candidates(checkpoints),
                "clusters": clusters,
                "seed": seed,
                "priority": priority,
                "webhook": webhook,
            }
            if _ended(client, path, request, "The search for regions", wait=wait, as_json=as_json) is None:
                return
        found = client.request("GET", path)
        if as_json:
            print_json(found)
        else:
            region_tables.show_regions(found)
        if map is not None:  # last: what was found is not lost on a folder that cannot be written
            write_file(map, client.read(f"{path}/map.png"))


def centroid(
    family: Family,
    *,
    name: Annotated[str, typer.Option(help="Of the new checkpoint: NAME or OWNER/NAME.")],
    region: Annotated[int | None, typer.Option(help="The members of this region.")] = None,
    members: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="These checkpoints, by name or id.")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="All that were finetuned on this; may be repeated.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|ID", help="What it is to be a start for: members tuned on it are left out."
        ),
    ] = None,
    include_target_members: Annotated[
        bool, typer.Option("--include-target-members", help="Keep those tuned on the target.")
    ] = False,
    weights: Annotated[
        str,
        typer.Option(metavar="uniform|posterior|W,W,...", help="How much each counts; they sum to 1."),
    ] = "uniform",
    priority: Priority = 0,
    webhook: Webhook = None,
    wait: NoWait = True,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Average checkpoints of a family into a new checkpoint of it.

    It is probed, finetuned and ranked like any other. Two weights such as 0.5,0.5 make a point between two
    members; 1.5,-0.5 one beyond the first.

    Example: headstart centroid roberta-base --region 1 --name me/nli-centre --target rte

    Example: headstart centroid roberta-base --members me/a,me/b --weights 0.7,0.3 --name me/between
    """
    if sum(one is not None for one in (region, members, source)) != 1:
        raise typer.BadParameter("Say who is averaged by one of --region, --members and --source.")
    request = {
        "name": name,
        "region": region,
        "members": read_candidates(members),
        "rule": None if source is None else {"source": source},
        "target": None if target is None else _id_or_name(target),
        "include_target_members": include_target_members or None,
        "weights": read_weights(weights),
        "priority": priority,
        "webhook": webhook,
    }
    with Client(url) as client:
        path = f"/families/{quoted(family)}/centroids"
        job = _ended(client, path, request, "The centroid", wait=wait, as_json=as_json)
    if job is None:
        return
    if as_json:
        print_json(job)
        return
    region_tables.show_centroid(job["result"])
    tables.say(f"Probe it with: headstart probe --checkpoint {name} --target TARGET")


def region_study(
    family: Family,
    *,
    target: Annotated[
        str, typer.Option(metavar="NAME|ID", help="What the loss is measured on; it has rows.")
    ],
    region: Annotated[int, typer.Option(help="Number of the region: see headstart regions --show.")],
    pairs: Annotated[int | None, typer.Option(help="Lines between two members [3].")] = None,
    hull_samples: Annotated[int | None, typer.Option(help="Random mixtures of members [10].")] = None,
    max_rows: Annotated[int | None, typer.Option(help="Of each role of the target [2000].")] = None,
    seed: Annotated[int, typer.Option(help="Of the lines and mixtures drawn.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write pictures into this folder.")
    ] = None,
    priority: Priority = 0,
    webhook: Webhook = None,
    wait: NoWait = True,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Measure whether a region is a good place to start from on a target.

    At each point a linear probe is trained on the frozen body: of members, of checkpoints outside, of random
    mixtures of members, and along lines through two of them. Members tuned on the target are left out.

    Example: headstart region-study roberta-base --target rte --region 1 --plot pictures
    """
    request = {
        "target": _id_or_name(target),
        "region": region,
        "pairs": pairs,
        "hull_samples": hull_samples,
        "max_rows": max_rows,
        "seed": seed,
        "priority": priority,
        "webhook": webhook,
    }
    with Client(url) as client:
        path = f"/families/{quoted(family)}/region-study"
        job = _ended(client, path, request, "The study", wait=wait, as_json=as_json)
    if job is None:
        return
    if as_json:
        print_json(job)
    else:
        region_tables.show_study(job["result"])
    if plot is not None:
        _plot(job["result"], plot)


def read_weights(text: str) -> str | list[float]:
    """A rule by its name, or numbers separated by commas."""
    text = text.strip()
    if text in ("uniform", "posterior"):
        return text
    wrong = typer.BadParameter(
        f"--weights {text!r} is neither uniform nor posterior, nor numbers such as 0.5,0.5."
    )
    try:
        weights = [float(one) for one in text.split(",")]
    except ValueError:
        raise wrong from None
    if not all(map(math.isfinite, weights)):
        raise wrong
    return weights


def _ended(
    client: Client, path: str, request: dict[str, Any], what: str, *, wait: bool, as_json: bool
) -> dict[str, Any] | None:
    """The job that is asked for, once it has ended; None where nobody waits: it is shown as queued."""
    answer = client.request("POST", path, json=given(request))
    if wait:
        return finished(client, answer["job"]["id"], what, quiet=as_json)
    if as_json:
        print_json(answer)
    else:
        job_tables.show_submission(answer)
    return None


def write_file(path: Path, data: bytes) -> None:
    """Write a picture, and say where. Refused where that cannot be."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise Refused(f"Cannot write {str(path)!r}: {error.strerror}. Choose another place.") from None
    tables.console(stderr=True).print(f"Wrote {path}", markup=False, soft_wrap=True)


def drawn(draw: Callable[[], bytes]) -> bytes:
    """A picture. Refused where this machine has no matplotlib."""
    from headstart.errors import Conflict  # noqa: PLC0415

    try:
        return draw()
    except Conflict:
        raise Refused(
            "Plots need matplotlib. Install it with: pip install 'headstart-advice[plot]'"
        ) from None


def _plot(result: dict[str, Any], folder: Path) -> None:
    from service.region_plot import study_png  # noqa: PLC0415

    data = drawn(lambda: study_png(result))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(
            f"Cannot write into {str(folder)!r}: {error.strerror}. Choose another --plot."
        ) from None
    write_file(folder / "region_study.png", data)


def _id_or_name(text: str) -> int | str:
    return int(text) if text.isdecimal() else text
