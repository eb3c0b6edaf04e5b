"""Decoders: CLIP image embedding → image. `registry.load_decoder` loads all kinds."""
