"""`headstart free-energy`: score the checkpoints along a run, and say which to finetune from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from service import free_energy_tables
from service.checkpoints_cli import in_folder, local_path, register
from service.client import Client, Refused
from service.command import DEFAULT_URL, AsJson, Url, given, print_json
from service.following import hint
from service.free_energy_run import Point, choose, in_order, point_of, refused, short_names
from service.jobs_cli import read_params, show_price
from service.probe_cli import as_known, checkpoint_of, finish, may_be_known, outcome_of, target_of
from service.regions_cli import drawn, write_file

if TYPE_CHECKING:
    from collections.abc import Sequence

METHOD = "free_energy"
MOST_ALIKE = 1000  # names looked through for one
WILD = frozenset("*?[")  # of a pattern that the shell found nothing for
CONFIG = "config.json"  # of every checkpoint's folder


class Given(NamedTuple):
    """A checkpoint as it was named on the command line."""

    text: str
    path: Path | None  # None: a name or id


class Registered(NamedTuple):
    """A checkpoint that the service knows, or the sentence with which it refuses it."""

    name: str  # as people are shown it
    checkpoint: dict[str, Any] | None
    refusal: str | None = None


def free_energy(
    checkpoints: Annotated[
        list[str],
        typer.Argument(metavar="PATH|NAME|ID...", help="Checkpoints of one run; a folder is registered."),
    ],
    *,
    target: Annotated[
        str, typer.Option(metavar="NAME|PATH|ID", help="Whose rows are read; a file or folder is registered.")
    ],
    family: Annotated[
        str | None, typer.Option(help="Of all of them; left out: told from what each names as its base.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(metavar="classification|masked-lm|causal-lm", help="Whose loss [classification]."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="converged|paper", help="Chains until they agree, or as published [converged]."),
    ] = None,
    radius: Annotated[float | None, typer.Option(help="How far around a checkpoint is looked.")] = None,
    chains: Annotated[int | None, typer.Option(help="Chains of each checkpoint.")] = None,
    draws: Annotated[int | None, typer.Option(help="Draws of each chain, after its burn-in.")] = None,
    rows: Annotated[int | None, typer.Option(help="Train rows that are read.")] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Any other parameter of the method; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the chains.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the curve over the steps.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take, and submit nothing.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for the jobs, or return once they are queued.")
    ] = True,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Measure the free energy of the checkpoints along a run, and say which to finetune from.

    The less free energy, the more good parameters lie near: such a checkpoint is said to adapt better. Chains
    that do not converge give no value. What is measured already is not measured again. Steps are read from
    the end of the names.

    Example: headstart free-energy run/checkpoint-* --target emotion --family minilm --plot curve.png

    Example: headstart free-energy run/checkpoint-* --target corpus --objective masked-lm --draws 600

    Example: headstart free-energy me/step-500 me/step-1000 --target emotion --json
    """
    named = {"objective": objective, "preset": preset, "radius": radius, "chains": chains, "draws": draws}
    params = _finite(read_params("{}", param or ()) | given(named | {"rows": rows}))
    asked = {"method": METHOD, "params": params, "seed": seed}
    if plot is not None and not wait:
        raise typer.BadParameter("--plot draws values, and --no-wait does not wait for any.")
    with Client(url) as client:
        if dry_run:
            asked |= {"target": as_known(target)} | given({"family": family})
            jobs = [asked | {"checkpoint": as_known(one)} for one in checkpoints]
            price = client.request("POST", "/jobs/batch", json={"jobs": jobs, "dry_run": True})
            show_price(price, as_json=as_json)
            return
        found, left_out = _looked_at(client, checkpoints, quiet=as_json)
        asked |= {"target": target_of(client, target, None, quiet=as_json)}
        run = _registered(client, found, family, asked, quiet=as_json)
        points = _measured(client, run, asked, wait=wait, quiet=as_json)
    if left_out and not as_json:
        hint(f"Left out, having no {CONFIG}: {', '.join(left_out)}.")
    if wait:
        _show(points, left_out, plot, as_json=as_json)
    elif as_json:
        print_json({"items": [one.told() for one in points], "left_out": left_out})
    else:
        free_energy_tables.show_queued(points)


def _finite(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters. Refused for a number that JSON cannot carry."""
    for name, value in params.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise typer.BadParameter(f"{name} is {value}: give a number.")
    return params


def _looked_at(client: Client, texts: Sequence[str], *, quiet: bool) -> tuple[list[Given], list[str]]:
    """What is to be measured, and what of DIR/* is no checkpoint. Refused where nothing is left."""
    found, left_out = [], []
    for text in dict.fromkeys(texts):
        path, is_here = local_path(text), _is_there(Path(text))
        if text.isdecimal():
            if is_here and not quiet:
                hint(f"{text} is read as the id of a checkpoint. For the folder write ./{text}.")
        elif path is None and is_here:  # a name goes before a folder here
            path = None if may_be_known(client, "/checkpoints", text) else Path(text).resolve()
        if WILD.intersection(text) and not is_here:
            raise Refused(f"There is no folder like {text!r}. Check the path.")
        if path is not None and _is_there(path) and not _is_there(path / CONFIG):
            left_out.append(text)
        else:
            found.append(Given(text, path))
    if not found:
        raise Refused(
            f"There is no {CONFIG} in {', '.join(left_out)}. Give folders that save_pretrained wrote, such "
            "as run/checkpoint-*."
        )
    return found, left_out


def _is_there(path: Path) -> bool:
    """Whether something is there; of what this user may not look into the service knows."""
    try:
        return path.exists()
    except PermissionError:
        return True
    except OSError:  # no name that a file can have
        return False


def _registered(
    client: Client, found: Sequence[Given], family: str | None, asked: dict[str, Any], *, quiet: bool
) -> list[Registered]:
    """The checkpoints in the order of their steps, each once. Refused where they are of two families."""
    run: list[Registered] = []
    for one in found:
        name = one.text if one.path is None else str(one.path)
        try:
            if one.path is not None:
                checkpoint = register(client, in_folder(one.path), family, quiet=quiet)
            else:
                checkpoint = _known(client, one.text, family, asked, quiet=quiet)
                name = checkpoint["name"]
        except Refused as refusal:
            run.append(Registered(name, None, str(refusal)))
            continue
        same = [
            other.name for other in run if other.checkpoint and other.checkpoint["id"] == checkpoint["id"]
        ]
        if not same:
            run.append(Registered(name, checkpoint))
        elif not quiet:
            hint(f"{one.text} is the same checkpoint as {same[0]}: it stands once.")
        _refuse_families(run)  # before more are registered in families that nobody wants
    short = short_names([one.name for one in run])
    run = [one._replace(name=name) for one, name in zip(run, short, strict=True)]
    return [run[at] for at in in_order(short)]


def _known(
    client: Client, text: str, family: str | None, asked: dict[str, Any], *, quiet: bool
) -> dict[str, Any]:
    """The checkpoint of a name or id. Refused, as a job of it would be, where there is none or several."""
    what = checkpoint_of(client, text, family, quiet=quiet)
    if isinstance(what, str):
        wanted = {"search": what, "family": family}
        alike = client.listed("/checkpoints", wanted, MOST_ALIKE)["items"]
        same = [one["id"] for one in alike if one["name"] == what]
        if len(same) != 1:
            named = asked | {"checkpoint": what, "dry_run": True} | given({"family": family})
            client.request("POST", "/jobs", json=named)
            raise Refused(f"The name {what!r} cannot be told from others: give the checkpoint's id.")
        (what,) = same
    found: dict[str, Any] = client.request("GET", f"/checkpoints/{what}")
    return found


def _refuse_families(run: Sequence[Registered]) -> None:
    """Refused for checkpoints of two families: their values say nothing of each other."""
    known = [(one.name, one.checkpoint["family"]) for one in run if one.checkpoint is not None]
    if len({family for _, family in known}) > 1:
        (one, of_one), (other, of_other) = known[0], known[-1]
        raise Refused(
            f"Free energy is compared within one family, and {one} is of {of_one}, {other} of {of_other}. "
            "Give --family NAME for the folders of one run, or ask for one family at a time."
        )


def _measured(
    client: Client, run: Sequence[Registered], asked: dict[str, Any], *, wait: bool, quiet: bool
) -> list[Point]:
    """What becomes of each checkpoint. Refused where the service takes none of them."""
    asked_for = [_submitted(client, one, asked) for one in run]
    if all(refusal is not None for _, refusal in asked_for):
        others = f" So are the other {len(run) - 1}." if len(run) > 1 else ""
        raise Refused(f"{run[0].name} is refused: {asked_for[0][1]}{others}")
    answers = [answer for answer, _ in asked_for]
    if wait:
        with_names = zip(answers, run, strict=True)
        names = {one["job"]["id"]: named.name for one, named in with_names if one and one["job"]}
        jobs = [one["job"] for one in answers if one and one["job"]]
        ended = finish(client, jobs, quiet=quiet, called=lambda job: names[job["id"]])
        by_id = {job["id"]: job for job in ended}
        answers = [one and outcome_of(client, one, by_id) for one in answers]
    return [
        refused(one.name, refusal or "")
        if answer is None
        else point_of(one.name, answer["job"], answer["score"])
        for one, answer, (_, refusal) in zip(run, answers, asked_for, strict=True)
    ]


def _submitted(
    client: Client, one: Registered, asked: dict[str, Any]
) -> tuple[dict[str, Any] | None, str | None]:
    """What the service answers, or the sentence with which it refuses."""
    if one.checkpoint is None:
        return None, one.refusal
    try:
        return client.request("POST", "/jobs", json=asked | {"checkpoint": one.checkpoint["id"]}), None
    except Refused as refusal:
        return None, str(refusal)


def _show(points: Sequence[Point], left_out: list[str], plot: Path | None, *, as_json: bool) -> None:
    """Show the run, draw it, and refuse in the end where a measurement is missing."""
    choice = choose(points)
    target = next(((one.score or one.job or {})["target"] for one in points if one.score or one.job), "")
    if as_json:
        items = [one.told() for one in points]
        print_json({"target": target, "items": items, "choice": choice.told(), "left_out": left_out})
    else:
        free_energy_tables.show_run(target, points, choice)
    if plot is not None:
        from service.free_energy_plot import run_png  # noqa: PLC0415 - for who draws alone

        write_file(plot, drawn(lambda: run_png(target, points, choice)))
    lost = [one for one in points if not one.settled]
    if lost:
        named = ", ".join(f"{one.name} ({one.verdict})" for one in lost)
        ran = next((one.job["id"] for one in lost if one.job is not None), None)
        see = "" if ran is None else f" See: headstart jobs show {ran}"
        raise Refused(f"There is no free energy of {named}.{see}")
