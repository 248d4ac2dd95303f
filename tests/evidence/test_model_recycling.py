"""The importer of the published tables, on tables made here and on the real ones where they are at hand."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from headstart.checkpoints.facts import Facts, facts_of
from headstart.entities import ImportBatch
from headstart.errors import BrokenFile, HeadstartError, InvalidInput, TooLarge
from headstart.evidence.model_recycling import read_results
from headstart.evidence.source import FolderSource, Missing
from tests.evidence.test_realign import LEVELS, SIZES, WIDTH, pack_left, sound
from tests.shared_data import MODEL_RECYCLING, needs_model_recycling

TARGETS = [f"t{j}" for j in range(WIDTH)]
HEADER = ["model_name", "base_model", "size", "layers", "mnli_lp", *TARGETS]


class Written:
    """A folder of published-like files, one family `base/one` with sound rows, to be spoilt by a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        self.rows = [["base/one", "base/one", "124000000.0", "12.0", "0.5", *sound(rng)[0]]]
        self.rows += [
            [f"hub/m{i}", "base/one", "1.0", "", "0.4", *row] for i, row in enumerate(sound(rng, 30))
        ]
        self.runs = [(t, v, "") for row in sound(rng, 20) for t, v in zip(TARGETS, row, strict=True)]

    def tested(self) -> str:
        lines = [HEADER, *([str(c) if c == c else "" for c in row] for row in self.rows)]
        return "\n".join(",".join(map(str, line)) for line in lines) + "\n"

    def read(self, *, tested: str | bytes | None = None, max_rows: int = 10_000) -> ImportBatch:
        text = self.tested() if tested is None else tested
        (self.folder / "models_tested.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        lines = [f"{i}\t{t}\t{v}\t0.1\t{s}" for i, (t, v, s) in enumerate(self.runs)]
        head = "\tdataset name\taccuracy\tloss\tspearmanr"
        (self.folder / "models_results_base_one_pretrain.csv").write_text("\n".join([head, *lines]) + "\n")
        return read_results(
            FolderSource(self.folder, 1 << 30), max_rows=max_rows, progress=lambda _, __: None
        )


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def test_sound_tables_come_through_whole(written: Written) -> None:
    batch = written.read()
    assert len(batch.checkpoints) == 31
    assert [t.rows_tested for t in batch.targets] == SIZES.astype(int).tolist()
    finetunes = [s for s in batch.scores if s.method == "finetune"]
    assert len(finetunes) == 31 * WIDTH + 20 * WIDTH
    assert not [s for s in batch.scores if s.quarantine]
    vanilla = [s for s in finetunes if s.checkpoint == "base/one" and s.params["table"] == "pretrain"]
    assert sorted(s.seed for s in vanilla if s.target == "t0") == list(range(20))
    assert [c.is_vanilla for c in batch.checkpoints].count(True) == 1
    assert batch.report.rows_read == 31 + 20 * WIDTH


def test_what_a_checkpoint_is_comes_with_it(written: Written) -> None:
    told = ["classification,last_modified", "True,2022-08-04T10:36:41.000Z", "False,"]
    rows = written.tested().splitlines()
    text = "".join(f"{told[min(i, 2)]},{row}\n" for i, row in enumerate(rows))
    first, second, *_ = written.read(tested=text).checkpoints
    assert first.parameters == 124_000_000
    modified = datetime(2022, 8, 4, 10, 36, 41, tzinfo=UTC).timestamp()
    assert facts_of(first.details) == Facts(layers=12, classification=1, modified=modified)
    np.testing.assert_equal(facts_of(second.details), Facts(classification=0.0))


def test_a_shifted_row_is_realigned_and_says_so(written: Written) -> None:
    truth = np.array(written.rows[5][5:], dtype=float)
    written.rows[5][5:] = pack_left(truth, [2, 7]).tolist()
    mine = [s for s in written.read().scores if s.checkpoint == "hub/m4" and s.method == "finetune"]
    trusted = {s.target: s.value for s in mine if s.quarantine is None}
    assert len(trusted) >= WIDTH - 4
    assert all(value == truth[int(target[1:])] for target, value in trusted.items())
    assert {s.provenance.get("realigned_from") for s in mine} > {"t2", "t8"}
    assert len({(s.target, s.value) for s in mine}) == len(mine), "a measurement printed twice is one score"


def test_a_probe_of_zero_is_kept_in_quarantine(written: Written) -> None:
    written.rows[3][4] = "0.0"
    doubted = [s for s in written.read().scores if s.quarantine]
    assert [(s.checkpoint, s.method, s.quarantine) for s in doubted] == [
        ("hub/m2", "linear_probe", "not_measured")
    ]


def test_a_family_without_vanilla_runs_is_noted(written: Written) -> None:
    written.rows.append(["hub/other", "lonely", "", "", "", *LEVELS])
    batch = written.read()
    assert "lonely" in batch.report.notes[0]
    assert [c.name for c in batch.checkpoints if c.family == "lonely" and c.is_vanilla] == ["lonely"]


def test_a_run_without_a_value_is_noted_and_refuses_nothing(written: Written) -> None:
    written.runs = [(t, "" if (t, k) == ("t2", 2) else v, s) for k, (t, v, s) in enumerate(written.runs)]
    batch = written.read()
    assert "1 runs of base/one on t2 have no value" in batch.report.notes[0]
    runs = [s.seed for s in batch.scores if s.target == "t2" and s.params.get("table") == "pretrain"]
    assert sorted(runs) == list(range(1, 20)), "the others keep their numbers"


def test_a_second_row_of_a_checkpoint_is_kept_in_quarantine(written: Written) -> None:
    written.rows[4][0] = "hub/m2"
    batch = written.read()
    assert [c.name for c in batch.checkpoints].count("hub/m2") == 1
    mine = [s for s in batch.scores if s.checkpoint == "hub/m2"]
    assert [s.quarantine for s in mine].count(None) == WIDTH + 1
    assert {s.quarantine for s in mine} == {None, "duplicate"}
    assert "line 6" in str(next(s.quarantine_note for s in mine if s.quarantine))


def test_a_spearman_column_has_no_grid(written: Written) -> None:
    rng = np.random.default_rng(9)
    for row in written.rows:
        row[5] = rng.uniform(0.85, 0.9)
    written.runs = [(t, "" if t == "t0" else v, 0.88 if t == "t0" else "") for t, v, _ in written.runs]
    batch = written.read()
    assert batch.targets[0].rows_tested is None
    assert not [s for s in batch.scores if s.quarantine]


@pytest.mark.parametrize(
    ("spoil", "line", "words"),
    [
        (lambda text: text.replace("0.4,", "zero point four,", 1), 3, "not a finite number"),
        (lambda text: text.replace("0.4,", "nan,", 1), 3, "not a finite number"),
        (lambda text: text.replace("hub/m1,base/one", "hub/m1", 1), 4, "fields"),
        (lambda text: text.replace("hub/m3", "", 1), 6, "no name"),
        (lambda text: text.replace("mnli_lp", "mnli", 1), 1, "missing"),
        (lambda text: text.replace("t3", "t2", 1), 1, "repeats"),
    ],
)
def test_a_broken_row_names_its_line(written: Written, spoil, line: int, words: str) -> None:
    with pytest.raises(BrokenFile) as caught:
        written.read(tested=spoil(written.tested()))
    assert f"line {line}," in caught.value.message
    assert words in caught.value.message


def test_bytes_that_are_not_utf8(written: Written) -> None:
    with pytest.raises(BrokenFile, match="not UTF-8"):
        written.read(tested=written.tested().encode().replace(b"hub/m1", b"hub/\xff", 1))


def test_an_empty_table_and_too_many_rows(written: Written) -> None:
    with pytest.raises(InvalidInput, match="no rows"):
        written.read(tested=",".join(HEADER) + "\n")
    with pytest.raises(HeadstartError):
        written.read(tested="")
    with pytest.raises(TooLarge, match="20"):
        written.read(max_rows=20)


def test_a_missing_table(tmp_path: Path) -> None:
    with pytest.raises(Missing):
        read_results(FolderSource(tmp_path, 1 << 30), max_rows=10, progress=lambda _, __: None)


@pytest.fixture(scope="module")
def published() -> ImportBatch:
    """The published tables, three families."""
    return read_results(FolderSource(MODEL_RECYCLING, 1 << 30), max_rows=10_000, progress=lambda _, __: None)


@needs_model_recycling
def test_the_test_sizes(published: ImportBatch) -> None:
    sizes = {t.name: t.rows_tested for t in published.targets}
    assert sizes["cb"] == 56
    assert sizes["wnli"] == 71
    assert sizes["copa"] == 100
    assert sizes["trec_fine"] == 500
    assert sizes["financial_phrasebank"] == 1000
    assert sizes["tweet_ev_emoji"] == 50000
    assert [t for t, n in sizes.items() if n is None] == ["stsb"]


@needs_model_recycling
def test_what_is_quarantined(published: ImportBatch) -> None:
    rows: dict[str, set[tuple[str, str]]] = {}
    for s in published.scores:
        if s.quarantine:
            rows.setdefault(s.quarantine, set()).add((s.family, s.checkpoint))
    assert len(rows["copied"]) == 6  # three pairs
    assert len(rows["other_split"]) == 8
    assert len(rows["not_measured"]) == 49
    counts = Counter(s.quarantine for s in published.scores)
    assert counts == {
        None: 41331, "collapsed": 140, "copied": 216, "duplicate": 36, "not_measured": 49,
        "off_grid": 96, "other_split": 288, "shifted": 257,
    }  # fmt: skip


@needs_model_recycling
def test_every_family_has_twenty_vanilla_runs(published: ImportBatch) -> None:
    runs = Counter((s.family, s.target) for s in published.scores if s.params.get("table") == "pretrain")
    assert set(runs.values()) == {20}
    assert len(runs) == 3 * 36
