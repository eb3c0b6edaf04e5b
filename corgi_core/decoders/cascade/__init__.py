"""The cascade: diffusion UNets, each drawing a larger picture from the one before."""
