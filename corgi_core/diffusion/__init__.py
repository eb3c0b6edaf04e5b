"""Diffusion: schedule, samplers, and what a network predicts."""
