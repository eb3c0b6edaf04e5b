"""A prior that the paper's authors released, from their checkpoint as safetensors.

Their files are pickles, which could run code when they are read, so they are not read here.
`docs/evaluation.md` says how to make the two files of a folder from them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from corgi_core.devices import device_of
from corgi_core.diffusion.samplers import noise_for, sample_ddpm
from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import Gaussians
from corgi_core.prior.authors_network import HEAD_WIDTH, AuthorsNetwork, AuthorsShape

WEIGHTS, GAUSSIANS = "model.safetensors", "gaussians.safetensors"
KAPPA = 5.0  # what their scripts scale the standard deviations by
NUM_STEPS = 8  # of their example
REMEDY = "make it from the authors' files as docs/evaluation.md says"
_RENAMED = {
    "t5_proj": "text_tokens", "clip_sentence_proj": "text_embedding", "x_proj": "noisy",
    "time_embed": "timestep", "pos_embed": "gaussian", "out_proj": "head",
}  # fmt: skip
_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out": "out"}
_MLP = {"net.0.proj": "mlp_in", "net.3": "mlp_out"}
_LAYER = re.compile(r"transformer\.layers\.(\d+)\.(.+)")


@dataclass
class AuthorsPrior:
    """Turns T5's tokens and CLIP's text embeddings into CLIP image embeddings.

    All embeddings are as OpenAI's ViT-B/16, ViT-B/32 and RN101 give them, in this order, not
    normalised.

    Attributes:
        network: Theirs.
        means: μ [k, d]; one row of zeros in their baseline.
        std: κσ [k, d]; of ones there.
    """

    network: AuthorsNetwork
    means: Tensor
    std: Tensor

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The prior of a folder with `model.safetensors` and, but for the baseline, the Gaussians.

        Raises:
            CorgiError: A file is missing or damaged, or holds other tensors.
        """
        tensors = _tensors(folder / WEIGHTS)
        network = network_of(tensors)
        d = network.shape.embedding_width
        if not network.shape.reads_gaussian:
            return cls(network, torch.zeros(1, d), torch.ones(1, d))
        found = _tensors(folder / GAUSSIANS)
        if set(found) != {"mean", "std"} or any(t.shape[1:] != (d,) for t in found.values()):
            raise CorgiError(
                f"{folder / GAUSSIANS} has not the tensors mean and std [k, {d}]", REMEDY
            )
        return cls(network, found["mean"].float(), KAPPA * found["std"].float())

    def to(self, device: torch.device | str) -> Self:
        """Move the network and the Gaussians to a device, in place."""
        self.network.to(device)
        self.means, self.std = self.means.to(device), self.std.to(device)
        return self

    def assign(self, text: Tensor) -> Tensor:
        """c(y) = argmaxᵢ cos(μᵢ, f_txt(y)), over the whole concatenation. text [n, d] → [n]."""
        return F.cosine_similarity(self.means.unsqueeze(0), text.unsqueeze(1), dim=-1).argmax(dim=1)

    @torch.no_grad()
    def sample(
        self,
        tokens: Tensor,
        text: Tensor,
        *,
        num_steps: int = NUM_STEPS,
        seed: int = 0,
        sample_ids: Sequence[int] | None = None,
    ) -> Tensor:
        """Image embeddings of n captions, by the paper's equation (3), without guidance.

        The authors' script departs from it in three points: it adds noise of the variance β instead
        of β̃, takes the mean's Gaussian from the predicted embedding at every step, and its eight
        timesteps are 0, 143, …, 999. So samples differ, while the network's outputs are the same.

        Args:
            tokens: T5's tokens [n, T, w_t], padding included.
            text: CLIP text embeddings [n, d].
            num_steps: Of the sampler.
            seed: Row i of the result depends on (seed, sample_ids[i]) and its own caption only.
            sample_ids: 0 … n − 1 by default.

        Returns:
            Embeddings [n, d] in CLIP's own scale.
        """
        device = device_of(self.network)
        tokens, text = tokens.to(device).float(), text.to(device).float()
        c = self.assign(text)
        gaussians = Gaussians(self.means[c], self.std[c])
        ids = range(len(text)) if sample_ids is None else sample_ids
        noise = noise_for(seed, ids, (num_steps, text.shape[1])).to(device)

        def denoiser(u_t: Tensor, t: int) -> Tensor:
            timesteps = torch.full((len(u_t),), t, device=device)
            z_t = gaussians.unwhiten(u_t)
            return gaussians.whiten(self.network(tokens, text, z_t, timesteps, c))

        return gaussians.unwhiten(sample_ddpm(denoiser, noise, num_steps))


def network_of(tensors: Mapping[str, Tensor]) -> AuthorsNetwork:
    """The network of a checkpoint's tensors, under the authors' names.

    Raises:
        CorgiError: It is no such checkpoint.
    """
    try:
        shape = AuthorsShape(
            embedding_width=tensors["x_proj.0.weight"].shape[1],
            text_width=tensors["t5_proj.0.gamma"].shape[0],
            width=tensors["final_emb"].shape[-1],
            layers=sum(name.endswith("to_q.weight") for name in tensors),
            heads=tensors["transformer.layers.0.1.to_q.weight"].shape[0] // HEAD_WIDTH,
            reads_gaussian="pos_embed.0.weight" in tensors,
        )
    except KeyError as error:
        raise CorgiError(f"the checkpoint of the authors' prior lacks {error}", REMEDY) from error
    network = AuthorsNetwork(shape)
    found = {_our_name(name): tensor for name, tensor in tensors.items()}
    expected = network.state_dict()
    wrong = sorted(
        name for name in {*found, *expected}
        if name not in found or name not in expected or found[name].shape != expected[name].shape
    )  # fmt: skip
    if wrong:
        raise CorgiError(
            f"{len(wrong)} tensors are not those of the authors' prior, such as {wrong[0]}",
            "give a ClipPrior whose Gaussians are fixed, not learned",
        )
    network.load_state_dict(found)
    return network.eval()


def _our_name(name: str) -> str:
    """Their name of a tensor → ours; an unknown name as it is."""
    if name == "final_emb":
        return "last"
    if layer := _LAYER.fullmatch(name):
        number, rest = int(layer[1]), layer[2]
        block, is_mlp = divmod(number, 2)
        if rest == "0.0.g":
            return f"blocks.{block}.{'mlp' if is_mlp else 'attention'}_norm.gain"
        part, _, kind = rest.removeprefix("1.").rpartition(".")
        ours = (_MLP if is_mlp else _ATTENTION).get(part, f"{number}.{part}")
        return f"blocks.{block}.{ours}.{kind}"
    module, _, rest = name.partition(".")
    renamed = f"{_RENAMED.get(module, module)}.{rest}"
    return re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", renamed))


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CorgiError(f"there is no file {path}", REMEDY)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CorgiError(f"{path} is damaged, or no safetensors file", REMEDY) from error
