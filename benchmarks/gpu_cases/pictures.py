"""From captions' encodings to pictures: the prior, then the cascade. Needs diffusers.

The prior takes 64 guided steps, each stage of the cascade 16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from benchmarks.gpu_cases import cascade, prior
from benchmarks.gpu_cases.case import Case, Sizes, System, precision_of
from benchmarks.prior_systems.captions import captions_of
from benchmarks.prior_systems.corgi import Corgi
from corgi_core.decoders.cascade.decoder import CascadeDecoder
from corgi_core.decoders.cascade.network import CascadeNetwork, CascadeShape

STEPS = 16


def cases(sizes: Sizes) -> Iterator[Case]:
    """Pictures of 256 pixels."""
    case = replace(prior.SMALL if sizes.small else prior.PAPER, device=str(sizes.device))
    captions = captions_of(case).training(0)
    model, decoder = Corgi(case).model, untrained(sizes, case.dim)

    def pictures() -> Tensor:
        tokens, mask, text, _ = captions
        return decoder.decode(model.sample(tokens, mask, text, sampler="ddpm"))

    size = decoder.settings.image_size
    yield Case(
        f"captions to pictures of {size} pixels", "pictures", case.batch, precision_of(sizes),
        System("corgi", pictures, case.batch),
    )  # fmt: skip


def untrained(sizes: Sizes, width: int) -> CascadeDecoder:
    """A cascade of both stages that `cascade` trains, with random weights."""
    stages, (_, vectors, vector_width) = cascade.stages(sizes), cascade.Conditions.of(sizes)
    settings = replace(
        cascade.PAPER, image_size=stages[-1].size, stages=stages, vectors=vectors,
        vector_width=vector_width, guidance=1.0, num_steps=2 if sizes.small else STEPS,
    )  # fmt: skip
    network = CascadeNetwork(CascadeShape.of(settings, width)).eval().to(sizes.device)
    return CascadeDecoder(network, settings, {"encoder_dims": [width]}, card={})
