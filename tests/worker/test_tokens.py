from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from headstart.failures import Refused
from headstart.workbench import Cancelled
from tests.worker.small_rows import ignore, make_rows, make_texts
from tests.worker.tiny_checkpoints import make_tokenizer
from worker.cache import Cache
from worker.tokens import LONGER, MARGIN_CHARACTERS, SAFE_CHARACTERS, Tokens, open_tokens

if TYPE_CHECKING:
    from pathlib import Path

    from headstart.rows import RowsFile

KINDS = (
    "bert",
    "roberta",
    "mpnet",
    "deberta",
    "deberta-v2",
    "distilbert",
    "gpt2",
    "llama",
    "t5",
    "modernbert",
)


def opened(tmp_path: Path, tokenizer, rows: RowsFile, *, report=ignore, role="train", **changes) -> Tokens:
    asked = {"most_rows": 10**6, "max_tokens": 16, "cache": Cache(tmp_path / "cache", 1 << 30)}
    return open_tokens(tokenizer, "digest", rows, role, report=report, **(asked | changes))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pairs", [False, True])
def test_each_row_has_the_tokens_that_the_tokenizer_gives_it_alone(
    tmp_path: Path, kind: str, pairs: bool
) -> None:
    tokenizer = make_tokenizer(kind)
    texts, others = make_texts(40, longest=9), make_texts(40, longest=9, seed=1)
    rows = make_rows(
        tmp_path / "rows",
        {"test": ["x"], "train": texts},
        {"test": ["x"], "train": others} if pairs else None,
    )
    tokens = opened(tmp_path, tokenizer, rows)
    cut = 0
    for row in range(40):
        text = (texts[row], others[row]) if pairs else (texts[row],)
        alone = tokenizer(*text, truncation="longest_first", max_length=16)
        assert tokens.ids(row).tolist() == alone["input_ids"]
        assert tokens.lengths[row] == len(alone["input_ids"])
        if tokens.typed:
            assert tokens.types(row).tolist() == alone["token_type_ids"]
        cut += len(tokenizer(*text)["input_ids"]) > 16
    assert tokens.typed == (pairs and "token_type_ids" in tokenizer.model_input_names)
    assert 0 < cut < 40
    assert tokens.truncated == cut
    assert tokens.largest == max(tokens.ids(row).max() for row in range(40))
    tokens.close()


def test_the_first_rows_of_the_role_alone_are_tokenised(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "rows", {"train": make_texts(9), "test": make_texts(5, seed=1)})
    assert len(opened(tmp_path, make_tokenizer("bert"), rows, most_rows=4).lengths) == 4
    assert len(opened(tmp_path, make_tokenizer("bert"), rows, role="test").lengths) == 5


def test_equal_rows_are_tokenised_once(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "rows", {"train": make_texts(9)})
    first = opened(tmp_path, make_tokenizer("bert"), rows)
    again = opened(tmp_path, None, rows)  # no tokenizer: it is not asked
    assert again.ids(3).tolist() == first.ids(3).tolist()
    assert again.seconds == first.seconds
    assert len(opened(tmp_path, make_tokenizer("bert"), rows, max_tokens=8).lengths) == 9
    assert len(list((tmp_path / "cache" / "tokens").iterdir())) == 2


def test_a_broken_file_of_tokens_is_made_anew(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "rows", {"train": make_texts(9)})
    first = opened(tmp_path, make_tokenizer("bert"), rows).ids(8).tolist()
    (path,) = (tmp_path / "cache").glob("tokens/*/ids.i32")
    path.write_bytes(path.read_bytes()[:-4])
    assert opened(tmp_path, make_tokenizer("bert"), rows).ids(8).tolist() == first


@pytest.mark.parametrize("kind", ["gpt2", "qwen2", "t5", "bert"])
def test_a_text_without_tokens_gets_one(tmp_path: Path, kind: str) -> None:
    tokenizer = make_tokenizer(kind)
    tokens = opened(tmp_path, tokenizer, make_rows(tmp_path / "rows", {"train": ["", "good", ""]}))
    assert (tokens.lengths >= 1).all()
    assert tokens.ids(0).tolist() == tokens.ids(2).tolist()
    assert 0 <= tokens.ids(0).max() < len(tokenizer)
    assert tokens.truncated == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_text_of_a_million_characters_is_cut_before_the_tokenizer_sees_it(
    tmp_path: Path, side: str
) -> None:
    tokenizer = make_tokenizer("bert")
    tokenizer.truncation_side = side
    seen = []

    class Watched:
        def __call__(self, texts, *args, **kwargs):
            seen.extend(map(len, texts))
            return tokenizer(texts, *args, **kwargs)

        def __getattr__(self, name):
            return getattr(tokenizer, name)

    long = "good film " * 100_000
    tokens = opened(tmp_path, Watched(), make_rows(tmp_path / "rows", {"train": [long, "good film"]}))
    assert tokens.ids(0).tolist() == tokenizer(long, truncation=True, max_length=16)["input_ids"]
    assert tokens.lengths.tolist() == [16, 4]
    assert tokens.truncated == 1
    assert max(seen) == SAFE_CHARACTERS * 16 + MARGIN_CHARACTERS


MOST = SAFE_CHARACTERS * 16 + MARGIN_CHARACTERS  # characters of a text that are looked at first
GAPS = {
    "blanks": " " * 2 * MOST,
    "lines": "\n" * 2 * MOST,
    "word": "x" * 2 * MOST,
    "zeros": "\u200b" * 2 * MOST,
}


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pairs", [False, True])
def test_what_stands_behind_many_characters_without_tokens_is_kept(
    tmp_path: Path, gap: str, side: str, pairs: bool
) -> None:
    tokenizer = make_tokenizer("bert")
    tokenizer.truncation_side = side
    text, other = f"a bad film {GAPS[gap]} was good", "long " * 20
    rows = make_rows(tmp_path / "rows", {"train": [text, "x"]}, {"train": [other, "y"]} if pairs else None)
    tokens = opened(tmp_path, tokenizer, rows)
    given = (text, other) if pairs else (text,)
    assert tokens.ids(0).tolist() == tokenizer(*given, truncation=True, max_length=16)["input_ids"]
    assert tokens.truncated == int(pairs)


def test_what_follows_enough_tokens_without_any_is_not_missed(tmp_path: Path) -> None:
    text = "good " * 14 + " " * 2 * MOST  # with two special tokens as long as may be
    tokens = opened(tmp_path, make_tokenizer("bert"), make_rows(tmp_path / "rows", {"train": [text]}))
    assert (tokens.lengths.tolist(), tokens.truncated) == ([16], 0)


def test_more_characters_than_the_longer_cut_are_never_looked_at(tmp_path: Path) -> None:
    text = " " * LONGER * MOST + "good"
    tokens = opened(tmp_path, make_tokenizer("bert"), make_rows(tmp_path / "rows", {"train": [text]}))
    assert (tokens.lengths.tolist(), tokens.truncated) == ([2], 1)


def test_a_long_second_text_is_cut_too(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "rows", {"train": ["good"]}, {"train": ["bad " * 10_000]})
    tokens = opened(tmp_path, make_tokenizer("bert"), rows)
    assert (tokens.lengths.tolist(), tokens.truncated) == ([16], 1)


def test_a_tokenizer_that_fails_on_a_text_is_refused_with_a_sentence(tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"good": 0}, unk_token="[UNK]"))
    )
    with pytest.raises(Refused, match=r"The tokenizer fails on a text: .*UNK"):
        opened(tmp_path, tokenizer, make_rows(tmp_path / "rows", {"train": ["bad"]}))


def test_it_stops_where_report_says_so_and_keeps_nothing(tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise Cancelled

    rows = make_rows(tmp_path / "rows", {"train": make_texts(9)})
    with pytest.raises(Cancelled):
        opened(tmp_path, make_tokenizer("bert"), rows, report=stop)
    assert not list((tmp_path / "cache").glob("tokens/*/*.i32"))


def test_ends_add_up_over_many_calls(tmp_path: Path) -> None:
    texts = make_texts(2500, longest=4)
    tokenizer = make_tokenizer("bert")
    tokens = opened(tmp_path, tokenizer, make_rows(tmp_path / "rows", {"train": texts}))
    assert len(tokens.lengths) == 2500
    assert np.array_equal(tokens.ids(2400), tokenizer(texts[2400])["input_ids"])
