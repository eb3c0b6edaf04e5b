"""Encoders: CLIP ensembles, token encoders, and the similarity that is always taken per block."""
