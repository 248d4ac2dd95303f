"""HTTP in, JSON out. No maths, no torch, no SQL."""
