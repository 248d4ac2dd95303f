"""Put fresh tables into a page, between its two markers.

headstart backtest --source FOLDER --markdown | python -m bench.page docs/results/backtest.md
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path


def main() -> None:
    """Read the tables from stdin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("page", type=Path, help="has <!-- backtest: begin --> and <!-- backtest: end -->")
    page = parser.parse_args().page
    begin, end = "<!-- backtest: begin -->", "<!-- backtest: end -->"
    text, marked = page.read_text(), re.compile(f"{begin}.*{end}", re.DOTALL)
    if not marked.search(text):
        sys.exit(f"{page} has no {begin} and {end}.")
    tables = sys.stdin.read().strip()
    page.write_text(marked.sub(lambda _: f"{begin}\n\n{tables}\n\n{end}", text))


if __name__ == "__main__":
    main()
