"""Sketches, regions and centroids, one after another in processes of their own.

    python -m bench.regions [--mergekit MERGEKIT/bin/mergekit-yaml] [--rounds 3]

Each part has more to set: `python -m bench.regions.sketch --help`, `.scale` and `.centroid` alike.
"""

from __future__ import annotations

import argparse
import subprocess
import sys


def main() -> None:
    """Run the three."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mergekit", help="the program mergekit-yaml of an environment of its own")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    merge = ["--mergekit", asked.mergekit] if asked.mergekit else []
    for part, more in (("sketch", []), ("scale", []), ("centroid", ["--rounds", str(asked.rounds), *merge])):
        subprocess.run([sys.executable, "-m", f"bench.regions.{part}", *more], check=True)


if __name__ == "__main__":
    main()
