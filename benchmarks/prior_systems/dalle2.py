"""DALLE2-pytorch's prior, with its own sampling loop and its own training loss.

Its network is as wide as the embeddings. Where d is not the width asked for, three linear maps
stand around it (noisy embedding and text embedding in, prediction out), so that all systems are
equally wide; d = 1536 would otherwise cost it nine times as much.

`python -m benchmarks.prior_systems.dalle2` speaks the protocol of `child`, in the environment that
`benchmarks.environments` makes.
"""

from __future__ import annotations

from typing import Any

from dalle2_pytorch import DiffusionPrior, DiffusionPriorNetwork
from torch import Tensor, nn

from benchmarks.prior_systems.child import serve
from benchmarks.prior_systems.system import TEXT_DROPOUT, Captions, Case, System
from corgi_core.diffusion.schedule import TIMESTEPS


class ProjectedNetwork(DiffusionPriorNetwork):
    """The network between linear maps from d to its width and back."""

    def __init__(self, embedding_width: int, width: int, **kwargs: Any) -> None:
        super().__init__(dim=width, **kwargs)
        self.dim = embedding_width  # which DiffusionPrior compares with the embeddings'
        self.image_in = nn.Linear(embedding_width, width)
        self.text_in = nn.Linear(embedding_width, width)
        self.out = nn.Linear(width, embedding_width)

    def forward(self, image_embed: Tensor, *args: Any, text_embed: Tensor, **kwargs: Any) -> Tensor:
        image_embed, text_embed = self.image_in(image_embed), self.text_in(text_embed)
        return self.out(super().forward(image_embed, *args, text_embed=text_embed, **kwargs))


class Dalle2(System):
    """One noise sample per caption, as its `DiffusionPrior.forward` does it."""

    noise_samples = 1

    def __init__(self, case: Case) -> None:
        if case.text_width != case.width:
            raise ValueError(f"text encodings must be {case.width} wide")
        options: dict[str, Any] = {
            "depth": case.layers,
            "heads": case.heads,
            "dim_head": case.width // case.heads,
            "max_text_len": case.text_tokens,
        }
        if case.dim == case.width:
            net = DiffusionPriorNetwork(dim=case.width, **options)
        else:
            net = ProjectedNetwork(case.dim, case.width, **options)
        self.network = DiffusionPrior(
            net,
            image_embed_dim=case.dim,
            image_channels=3,
            timesteps=TIMESTEPS,
            sample_timesteps=case.steps,
            cond_drop_prob=TEXT_DROPOUT,
            beta_schedule="linear",
            loss_type="l2",
            predict_x_start=True,
        ).to(case.device)

    def sample(self, captions: Captions, steps: int, guidance: float) -> Tensor:
        """`DiffusionPrior.sample` after it has encoded the text, for one embedding a caption.

        Its DDIM evaluates the network once less often than `timesteps` says.
        """
        return self.network.p_sample_loop(
            captions.image.shape,
            text_cond=_conditions(captions),
            cond_scale=guidance,
            timesteps=steps + 1,
        )

    def loss(self, captions: Captions) -> Tensor:
        unit = captions.image / self.network.image_embed_scale  # which it scales up in place
        return self.network(image_embed=unit, **_conditions(captions))

    def predict(self, captions: Captions, z_t: Tensor, t: Tensor) -> Tensor:
        return self.network.net(z_t, t, **_conditions(captions))


def _conditions(captions: Captions) -> dict[str, Tensor]:
    """It tells padding by its zeros."""
    return {"text_embed": captions.text, "text_encodings": captions.tokens}


if __name__ == "__main__":
    serve(Dalle2)
