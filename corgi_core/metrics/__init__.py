"""Metrics, one a file: features, their statistics, the value."""
