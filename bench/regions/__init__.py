"""What sketches, regions and centroids cost, each beside its yardstick. All in one run:

python -m bench.regions [--mergekit MERGEKIT/bin/mergekit-yaml]
"""
