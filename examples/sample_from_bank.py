"""Sample image embeddings from a bank of Gaussians, the start of the shifted diffusion.

python examples/sample_from_bank.py
"""

import torch

from corgi_core.encoders.similarity import mean_encoder_cosine, scale_per_encoder
from corgi_core.gaussians.fit import fit_bank

torch.manual_seed(0)
encoder_dims = (32,)  # one CLIP encoder of width 32
topics = torch.randn(4, 32)  # what the images show: a cat, a car, a tree, a face
images = scale_per_encoder(topics.repeat(500, 1) + 0.3 * torch.randn(2000, 32), encoder_dims)
captions = scale_per_encoder(topics + 0.5 * torch.randn(4, 32), encoder_dims)  # CLIP, of texts

bank, fit = fit_bank(images.numpy(), k=4, encoder_dims=encoder_dims)
gaussians = bank.gaussians(bank.assign(captions))  # of each caption the nearest, N(μ, σ²)
samples = gaussians.unwhiten(torch.randn(4, 32))  # z = μ + σ u, u ~ N(0, I)

shifted = mean_encoder_cosine(samples, topics, encoder_dims).mean()
standard = mean_encoder_cosine(torch.randn(4, 32), topics, encoder_dims).mean()
print(f"{fit.k} Gaussians of {fit.embeddings:,} embeddings")
print(f"cosine to the caption's topic: {shifted:.2f} from the bank, {standard:.2f} from N(0, I)")
