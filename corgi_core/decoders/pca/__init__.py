"""Diffusion over the principal components of small images: a decoder for processors."""
