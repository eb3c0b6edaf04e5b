"""Lafite without language: the GAN, trained on pseudo text embeddings and fed with real ones."""
