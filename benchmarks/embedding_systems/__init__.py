"""Embedding photographs from tars: Corgi's way, open_clip's own loop and clip-retrieval's."""

import corgi_core  # noqa: F401  (first, so that the peers can import torchvision beside any torch)
