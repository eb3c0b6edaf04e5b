"""The authors' checkpoint gives what their network gives: here written out from its tensors.

The names are those of their `ClipPrior` with x-transformers 0.28.4, and so are the rules: RMS
norms, heads of 64, no biases in attention, a gated unit whose gate is the second half, and no
positions.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from corgi_core.diffusion.samplers import noise_for, timesteps_of
from corgi_core.diffusion.schedule import Schedule
from corgi_core.errors import CorgiError
from corgi_core.prior.authors_prior import KAPPA, AuthorsPrior, network_of
from tests.helpers.authors_checkpoint import (
    GAUSSIANS,
    PUBLISHED,
    SMALL,
    D,
    Sizes,
    checkpoint,
)

LENGTH, N = 7, 4


def expected(
    p: dict[str, Tensor], tokens: Tensor, text: Tensor, z_t: Tensor, t: Tensor, c: Tensor
) -> Tensor:
    """Their forward pass, caption by caption, head by head and position by position."""
    p = {name: tensor.double() for name, tensor in p.items()}
    width, layers = p["final_emb"].shape[-1], sum("to_q" in name for name in p)
    heads = len(p["transformer.layers.0.1.to_q.weight"]) // 64

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", torch.tensor(0.0))

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * p[f"{name}.gamma"]

    def rms(name: str, x: Tensor) -> Tensor:
        return x / x.square().mean(-1, keepdim=True).sqrt() * p[f"{name}.0.0.g"]

    def two_layers(name: str, first: int, x: Tensor) -> Tensor:
        hidden = F.silu(linear(f"{name}.{first}", x))
        return linear(f"{name}.{first + 3}", norm(f"{name}.{first + 2}", hidden))

    def features(name: str, number: int) -> Tensor:
        half = width // 2
        angles = torch.tensor([number * 10_000 ** (-i / half) for i in range(half)]).double()
        x = torch.cat([angles.cos(), angles.sin()])
        return linear(f"{name}.2", F.silu(linear(f"{name}.0", x)))

    rows = []
    for i in range(len(text)):
        x = [*two_layers("t5_proj", 1, norm("t5_proj.0", tokens[i].double()))]
        x += [two_layers("clip_sentence_proj", 0, text[i].double())]
        x += [features("time_embed", int(t[i]))]
        x += [features("pos_embed", int(c[i]))] if "pos_embed.0.weight" in p else []
        x = torch.stack([*x, two_layers("x_proj", 0, z_t[i].double()), p["final_emb"][0, 0]])
        for layer in range(0, 2 * layers, 2):
            name = f"transformer.layers.{layer}"
            q, k, v = (
                linear(f"{name}.1.{part}", rms(name, x)) for part in ("to_q", "to_k", "to_v")
            )
            attended = torch.zeros_like(q)
            for head in range(heads):
                own = slice(64 * head, 64 * head + 64)
                for s in range(len(x)):
                    weights = (k[: s + 1, own] @ q[s, own] / 8).softmax(0)
                    attended[s, own] = weights @ v[: s + 1, own]
            x = x + linear(f"{name}.1.to_out", attended)
            name = f"transformer.layers.{layer + 1}"
            inner = linear(f"{name}.1.net.0.proj", rms(name, x))
            x = x + linear(f"{name}.1.net.3", inner[:, : 4 * width] * F.gelu(inner[:, 4 * width :]))
        rows.append(linear("out_proj.2", F.silu(linear("out_proj.0", x[-1]))))
    return torch.stack(rows)


def inputs(sizes: Sizes = SMALL) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = (N, LENGTH, sizes.text), (N, sizes.d), (N, sizes.d)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


@pytest.mark.parametrize(
    ("reads_gaussian", "sizes", "count"),
    [(True, SMALL, N), (False, SMALL, N), (True, PUBLISHED._replace(layers=1), 1)],
)
def test_the_network_gives_what_theirs_gives(
    reads_gaussian: bool, sizes: Sizes, count: int
) -> None:
    """Also at the width of the released models, in one layer of their sixteen."""
    tensors = checkpoint(reads_gaussian, sizes)
    tokens, text, z_t = (each[:count] for each in inputs(sizes))
    t, c = torch.tensor([500, 0, 7, 999])[:count], torch.tensor([3, 0, 4, 1])[:count]
    with torch.no_grad():
        found = network_of(tensors)(tokens, text, z_t, t, c)
    torch.testing.assert_close(
        found.double(), expected(tensors, tokens, text, z_t, t, c), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(("layers", "reads_gaussian"), [(16, True), (20, False)])
def test_a_checkpoint_of_the_released_shapes_is_taken_whole(
    layers: int, reads_gaussian: bool
) -> None:
    """Shapes alone: a billion weights are not made."""
    with torch.device("meta"):
        network = network_of(checkpoint(reads_gaussian, PUBLISHED._replace(layers=layers)))
    shape = network.shape
    assert (shape.embedding_width, shape.text_width, shape.width) == (1536, 1024, 2048)
    assert (shape.layers, shape.heads, shape.reads_gaussian) == (layers, 32, reads_gaussian)


def test_samples_follow_the_papers_equations_from_the_captions_gaussian(tmp_path: Path) -> None:
    """Equation (3) as printed, in z, with the Gaussian nearest to the caption by cosine."""
    tensors, (tokens, text, _) = checkpoint(True), inputs()
    mean, std = torch.randn(GAUSSIANS, D), torch.rand(GAUSSIANS, D) / 5 + 0.1
    save_file(tensors, tmp_path / "model.safetensors")
    save_file({"mean": mean, "std": std}, tmp_path / "gaussians.safetensors")
    found = AuthorsPrior.load(tmp_path).sample(tokens, text, num_steps=3, seed=5)
    c = torch.stack([F.cosine_similarity(mean, each[None]).argmax() for each in text])
    mu, sigma = mean[c].double(), KAPPA * std[c].double()
    noise = noise_for(5, range(N), (3, D)).double()
    cumprod, steps = Schedule.linear().alphas_cumprod, timesteps_of("ddpm", 3)
    z = mu + sigma * noise[:, 0]
    for i, (t, t_next) in enumerate(zip(steps, [*steps[1:], None], strict=True), start=1):
        before = 1.0 if t_next is None else float(cumprod[t_next])
        alpha, now = float(cumprod[t]) / before, float(cumprod[t])
        a = (1 - alpha) * math.sqrt(before) / (1 - now)
        b = math.sqrt(alpha) * (1 - before) / (1 - now)
        e = (1 - alpha) * (1 - math.sqrt(before)) / (1 - now)
        z_0 = expected(tensors, tokens, text, z.float(), torch.full((N,), t), c)
        z = a * z_0 + b * (z - (1 - math.sqrt(alpha)) * mu) + e * mu
        if t_next is not None:
            z = z + math.sqrt((1 - alpha) * (1 - before) / (1 - now)) * sigma * noise[:, i]
    torch.testing.assert_close(found.double(), z, atol=1e-4, rtol=1e-4)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorgiError, match=r"no file .*model\.safetensors"):
        AuthorsPrior.load(tmp_path)
    tensors = checkpoint(True)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CorgiError, match=r"no file .*gaussians\.safetensors"):
        AuthorsPrior.load(tmp_path)
    with pytest.raises(CorgiError, match=r"such as vocab\.mean\.weight"):
        network_of(tensors | {"vocab.mean.weight": torch.zeros(GAUSSIANS, D)})
    with pytest.raises(CorgiError, match="lacks 'final_emb'"):
        network_of({name: each for name, each in tensors.items() if name != "final_emb"})
