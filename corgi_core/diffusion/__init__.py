"""Diffusion, once for priors and decoders: schedule, parameterization, samplers, guidance."""
