"""Corgi's science: shifted diffusion for text-to-image generation, in plain PyTorch.

Imports no orchestrator (Dagster, Ray, MLflow), and importing the package itself loads no torch.
"""

from corgi_core import torchvision_on_cpu

torchvision_on_cpu.install()
