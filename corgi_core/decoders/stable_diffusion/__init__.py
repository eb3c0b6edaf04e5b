"""Stable Diffusion 2, conditioned on a CLIP image embedding instead of a text."""
