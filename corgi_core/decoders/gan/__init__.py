"""StyleGAN2 conditioned on the embedding at every layer, with Lafite's architecture and losses."""
