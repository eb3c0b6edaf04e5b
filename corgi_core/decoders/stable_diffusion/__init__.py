"""Stable Diffusion 2 that is told a CLIP image embedding instead of a text."""
