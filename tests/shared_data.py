"""The published tables, where a checkout has them beside it; tests that use them skip where it has not."""

from pathlib import Path

import pytest

MODEL_RECYCLING = Path(__file__).parents[2] / "shared" / "data" / "model-recycling"

needs_model_recycling = pytest.mark.skipif(
    not MODEL_RECYCLING.is_dir(), reason="the published model-recycling tables are not beside this checkout"
)
