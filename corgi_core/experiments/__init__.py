"""Experiments that compare many models: the prior's ablation and the decoders' comparison."""
