"""Dagster's assets and their checks, one file a stage."""
