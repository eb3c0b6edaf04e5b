"""How good priors and decoders are on held-out captions, measured alike for all of them."""
