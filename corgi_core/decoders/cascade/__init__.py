"""The cascade: diffusion UNets, each of which samples a larger image from the one before."""
