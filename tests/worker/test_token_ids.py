"""Whether ids mean the same tokens, by whichever file of a tokenizer tells."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from headstart.failures import Refused
from worker.token_ids import agreement, token_ids

if TYPE_CHECKING:
    from pathlib import Path

IDS = {"[PAD]": 0, "a": 1, "b": 2, "ü\u2028": 3}


def written(folder: Path, name: str, content: object) -> Path:
    folder.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def kinds(root: Path) -> dict[str, Path]:
    unigram = [[token, -1.0] for token in IDS]
    model = {name: number for name, number in IDS.items() if number}
    added = [{"id": 0, "content": "[PAD]", "special": True}]
    return {
        "wordpiece": written(
            root / "1", "tokenizer.json", {"model": {"vocab": model}, "added_tokens": added}
        ),
        "unigram": written(
            root / "2", "tokenizer.json", {"model": {"vocab": unigram}, "added_tokens": added}
        ),
        "lines": written(root / "3", "vocab.txt", "\n".join(IDS) + "\n"),
        "json": written(root / "4", "vocab.json", IDS),
    }


def test_every_kind_of_file_tells_the_same(tmp_path: Path) -> None:
    folders = kinds(tmp_path)
    assert [token_ids(folder) for folder in folders.values()] == [IDS] * 4
    assert {agreement(folders["lines"], folder) for folder in folders.values()} == {1.0}


def test_the_share_is_of_the_ids_that_both_have(tmp_path: Path) -> None:
    one = written(tmp_path / "1", "vocab.txt", "a\nb\nc\nd")
    other = written(tmp_path / "2", "vocab.txt", "a\nB\nc\nd\ne")
    assert agreement(one, other) == 0.75
    assert agreement(other, one, most_ids=2) == 0.5


@pytest.mark.parametrize(
    "told",
    [{}, {"model": 3}, {"model": {"vocab": "x"}}, {"model": {"vocab": {"a": "b"}}, "added_tokens": [1]}],
)
def test_a_file_that_does_not_tell_is_passed_over(tmp_path: Path, told: object) -> None:
    odd = written(tmp_path / "1", "tokenizer.json", told)
    assert token_ids(odd) is None
    assert agreement(odd, written(tmp_path / "2", "vocab.json", IDS)) is None
    assert token_ids(written(odd, "vocab.json", IDS)) == IDS
    assert token_ids(tmp_path) is None


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"tokenizer\.json is no JSON"):
        token_ids(written(tmp_path / "1", "tokenizer.json", "{"))
