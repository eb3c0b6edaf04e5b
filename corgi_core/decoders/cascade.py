"""The decoder of the paper's cascade: a diffusion UNet at its first resolution.

The paper's two further UNets, 64 → 256 → 1024, would be tasks of the same kind.
"""

from corgi_core.decoders.model import DecoderModel
from corgi_core.decoders.task import DecoderTask

__all__ = ["DecoderModel", "DecoderTask"]
