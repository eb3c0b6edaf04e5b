"""Encoders: CLIP ensembles, token encoders, text towers, and similarity under each encoder."""
