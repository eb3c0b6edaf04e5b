"""The parts of `benchmarks.scale`: made shards, a step in a process of its own, its memory."""
