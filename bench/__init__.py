"""Benchmarks: side by side with a limit or a peer in one run, printed as ratios. Never timed tests."""
