"""The tokenizer of a checkpoint."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import tokenizers
import transformers

from headstart.checkpoints.files import TOKENIZER_FILES
from headstart.failures import Refused
from worker.checkpoints import MOST_JSON_BYTES, digest_files
from worker.reading import told_as

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_REMEDY = "Save the tokenizer with save_pretrained, as a tokenizer.json; its own code is never run."


def load_tokenizer(folder: Path, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer in the folder, a fast one where there is one, neither cutting nor padding by itself.

    Raises Refused where it cannot be read.
    """
    for path in tokenizer_files(folder):
        if path.stat().st_size > MOST_JSON_BYTES:
            raise Refused(f"{path.name} has more than {MOST_JSON_BYTES >> 20} MiB.", _REMEDY)
    with told_as(Refused, "The tokenizer cannot be read", _REMEDY):
        loaded = transformers.AutoTokenizer.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False
        )
    if loaded.is_fast:
        loaded.backend_tokenizer.no_truncation()
        loaded.backend_tokenizer.no_padding()
    return loaded


def tokenizer_digest(folder: Path, config: PretrainedConfig) -> str:
    """What tokenised rows are keyed by: the tokenizer's files, and what decides how they are read."""
    read_by = f"{config.model_type} {transformers.__version__} {tokenizers.__version__}"
    return (
        "sha256:" + hashlib.sha256(f"{digest_files(tokenizer_files(folder))} {read_by}".encode()).hexdigest()
    )


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of the tokenizer that the folder has."""
    return [path for name in TOKENIZER_FILES if (path := folder / name).is_file()]
