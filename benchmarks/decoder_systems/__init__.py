"""The systems that `benchmarks.decoders` measures, each in a process of its own."""

import corgi_core  # noqa: F401 (before torchvision, which it mends beside a CPU build of torch)
