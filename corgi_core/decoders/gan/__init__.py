"""A StyleGAN2 that is told the embedding at every layer, with Lafite's architecture and losses."""
