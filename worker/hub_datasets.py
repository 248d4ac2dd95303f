"""Importer "hub-target": a dataset of the hub, streamed with the `datasets` library.

The revision is resolved to a commit first, and read at it. No code of a dataset is ever run: `datasets` reads
data files alone. A class label is stored by its name; -1, which unlabelled test splits hold, is no label.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import HeadstartError, InvalidInput, Unreachable, nearest_names
from headstart.rows import ROLES
from headstart.targets.assemble import assemble
from headstart.targets.columns import Found, find_columns
from headstart.targets.files import PROGRESS_ROWS, READING, ROLE_NAMES, STORING
from headstart.targets.gather import Gathering
from headstart.targets.spec import Hub, TargetSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from headstart.entities import ImportBatch
    from headstart.evidence.ingest import Errand, Importer
    from headstart.targets.spec import Columns
    from headstart.workbench import Role

NO_LABEL = -1


def import_target(errand: Errand) -> ImportBatch:
    """Read a target from the hub.

    Raises: InvalidInput (no such dataset, config, split or column; a dataset that needs code), Unreachable.
    """
    spec = TargetSpec.model_validate(errand.params)
    hub = spec.hub or Hub(id=errand.source)
    errand.progress(0.0, f"asking the hub for {hub.id}")
    if Path(hub.id).exists():
        raise InvalidInput(
            f"A file or folder {hub.id!r} lies where this worker runs, and would be read in place of the "
            "dataset. Run the worker in another folder."
        )
    with hub_errors(hub):
        commit = commit_of(hub)
        splits = open_splits(hub.id, hub.config, commit, errand.folder)
    name = hub.id if hub.config is None else f"{hub.id}, {hub.config}"
    return read_splits(errand, spec, splits, f"{name} at {commit[:12]}")


def commit_of(hub: Hub, endpoint: str | None = None) -> str:
    """The commit that a dataset's revision stands for now. Raises errors of huggingface_hub and httpx."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - heavy, and off the start

    return str(HfApi(endpoint=endpoint).dataset_info(hub.id, revision=hub.revision, timeout=30).sha)


def open_splits(path: str, config: str | None, commit: str | None, cache: Path) -> Mapping[str, Any]:
    """Split -> an iterable of its rows, of a dataset of the hub or of a folder laid out like one.

    Raises: whatever `datasets` raises.
    """
    import datasets  # noqa: PLC0415 - takes a second

    return datasets.load_dataset(  # type: ignore[no-any-return]
        path, config, revision=commit, streaming=True, cache_dir=str(cache)
    )


def read_splits(errand: Errand, spec: TargetSpec, splits: Mapping[str, Any], origin: str) -> ImportBatch:
    """Read the rows of opened splits, and make of them what is stored."""
    hub = spec.hub or Hub(id=errand.source)
    roles = split_roles(tuple(splits), hub.splits, hub.id)
    gathering = Gathering(errand.limits.max_rows, errand.limits.max_bytes)
    columns = Found("", None, "")
    for at, (role, split) in enumerate(roles.items()):
        opened = _Split.open(hub, split, splits[split], spec.columns)
        for line, cells in opened.rows():
            gathering.add(role, opened.name, line, opened.columns, cells)
            if line % PROGRESS_ROWS == 0:
                part = (at + opened.part(line)) / len(roles)
                errand.progress(READING * part, f"reading {split}: {line} rows")
        columns = opened.columns
    return assemble(
        gathering,
        spec,
        {role: f"{split} of {origin}" for role, split in roles.items()},
        columns,
        errand.folder / "rows.parquet",
        lambda part, said: errand.progress(READING + (STORING - READING) * part, said),
    )


def split_roles(splits: Sequence[str], wanted: Mapping[Role, str] | None, dataset: str) -> dict[Role, str]:
    """Role -> split: as wanted, or else by the usual names; a single split is train.

    Raises: InvalidInput (a split that is not there, none that is known to be train).
    """
    shown = ", ".join(splits)
    if wanted is not None:
        for split in wanted.values():
            if split not in splits:
                nearest = nearest_names(split, splits)
                hint = f"Did you mean {nearest[0]!r}?" if nearest else f"There are {shown}."
                raise InvalidInput(f"The dataset {dataset!r} has no split {split!r}. {hint}")
        if len(set(wanted.values())) < len(wanted):
            raise InvalidInput(
                "One split is to be two roles. Give each role its own; what is missing is split off."
            )
        return {role: wanted[role] for role in ROLES if role in wanted}
    found: dict[Role, str] = {}
    for split in splits:
        role = ROLE_NAMES.get(split.lower())
        if role is not None:
            found.setdefault(role, split)
    if len(splits) == 1:
        return {"train": splits[0]}
    if "train" not in found:
        raise InvalidInput(
            f"No split of the dataset {dataset!r} is called train: there are {shown}. Say which is which by "
            "hub.splits."
        )
    return {role: found[role] for role in ROLES if role in found}


@dataclass(frozen=True, slots=True)
class _Split:
    """A split of a dataset, opened."""

    hub: Hub
    name: str
    data: Any  # an IterableDataset of the wanted columns
    columns: Found
    classes: list[str] | None  # names of the label's values, where the dataset tells them
    size: int | None

    @classmethod
    def open(cls, hub: Hub, split: str, data: Any, wanted: Columns) -> _Split:
        """Find its columns. Raises: BrokenFile, InvalidInput, Unreachable."""
        name = f"{hub.id}, {split}"
        with hub_errors(hub):
            names = data.column_names
            if names is None:  # CSV and JSON tell them by their rows alone
                names = list(next(iter(data), {}))
        columns = find_columns(name, 1, names, wanted)
        told = (data.features or {}).get(columns.label)
        sizes = data.info.splits or {}
        size = sizes[data.split].num_examples if data.split in sizes else None
        chosen = data.select_columns(list(columns.names))
        return cls(hub, name, chosen, columns, getattr(told, "names", None), size)

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number, cells) of each row, the first is 1. Raises: InvalidInput, Unreachable."""
        label = self.columns.label
        with hub_errors(self.hub):  # only of the reading: what goes wrong with a row is not raised in here
            for line, row in enumerate(self.data, 1):
                if self.classes is not None:
                    code = row[label]
                    row[label] = None if code is None or code == NO_LABEL else self.classes[code]
                yield line, row

    def part(self, line: int) -> float:
        """How much of it was read by this row; 0 where that cannot be told."""
        return min(1.0, line / self.size) if self.size else 0.0


@contextmanager
def hub_errors(hub: Hub) -> Iterator[None]:
    """Turn what the libraries raise into a sentence with a remedy."""
    from huggingface_hub import errors  # noqa: PLC0415 - see commit_of

    try:
        yield
    except HeadstartError:
        raise
    except errors.GatedRepoError:
        raise Unreachable(
            f"The dataset {hub.id!r} is gated: its owner has to let you in. Give the worker a token by "
            "HF_TOKEN, or download the dataset and give its path."
        ) from None
    except errors.RevisionNotFoundError:
        raise InvalidInput(f"The dataset {hub.id!r} has no revision {hub.revision!r}. Check it.") from None
    except errors.RepositoryNotFoundError:
        raise InvalidInput(
            f"The hub has no dataset {hub.id!r} that this worker may see. Check its id; for a private one "
            "give the worker a token by HF_TOKEN."
        ) from None
    except ValueError as error:  # of `datasets`: a config that is missing or not known, and the like
        what = " ".join(str(error).split())[:300].rstrip(".")
        raise InvalidInput(
            f"The dataset {hub.id!r} cannot be opened: {what}. Check config and splits."
        ) from None
    except RuntimeError as error:  # of `datasets`: a dataset that is a script
        what = " ".join(str(error).split())[:300].rstrip(".")
        raise InvalidInput(
            f"The dataset {hub.id!r} cannot be read without running code, which is never done ({what}). "
            "Convert it to Parquet and give its path."
        ) from None
    except Exception as error:  # whatever an HTTP library or a parser of untrusted bytes may raise
        kind = type(error).__name__
        raise Unreachable(
            f"The dataset {hub.id!r} cannot be read from the hub ({kind}). Try again; or download it and "
            "give its path."
        ) from error


IMPORTERS: dict[str, Importer] = {"hub-target": import_target}
