"""The steps of the benchmark of caption choice."""
