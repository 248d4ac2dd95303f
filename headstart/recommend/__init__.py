"""From evidence to advice: pure functions of arrays. No I/O, no store, no HTTP."""
