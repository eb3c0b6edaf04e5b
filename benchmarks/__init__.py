"""Measurements, each one command: `python -m benchmarks.NAME`. Quote ratios, not absolute times."""
