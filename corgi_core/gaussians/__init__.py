"""The bank of Gaussians that the shifted diffusion starts from: held, fitted, learned, measured."""
