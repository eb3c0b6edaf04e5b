"""Three priors behind one protocol: Corgi's, diffusers' and DALLE2-pytorch's, a process each."""

import corgi_core  # noqa: F401  (first, so that the peers can import torchvision beside any torch)
