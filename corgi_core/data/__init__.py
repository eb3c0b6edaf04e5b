"""Data: readers, shards and their manifest, the quality gate, caption subsets, sharded arrays."""
