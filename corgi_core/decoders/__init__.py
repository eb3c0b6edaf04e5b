"""Decoders: CLIP image embedding → picture."""
