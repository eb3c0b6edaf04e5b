"""Diffusion over the principal components of small pictures: a decoder for processors."""
