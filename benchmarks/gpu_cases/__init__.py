"""What `benchmarks.gpu` measures: one file a part of Corgi, each with a plain loop beside it."""

import corgi_core  # noqa: F401 (before torchvision, which it mends beside a CPU build of torch)
