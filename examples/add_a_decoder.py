"""Add a kind of decoder: settings, network, decoder, and the task that trains it.

    python examples/add_a_decoder.py

The smallest there is: one linear layer from an embedding to the pixels of the mean image.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from corgi_core.config import DataSettings, DecoderSettings, TrainingSettings
from corgi_core.data.arrays import compute_missing
from corgi_core.data.ingest import ingest
from corgi_core.data.keys import SplitKeys
from corgi_core.data.pixels import pixels
from corgi_core.decoders.decoder import Decoder, signed, unsigned
from corgi_core.decoders.registry import load_decoder, register
from corgi_core.decoders.task import DecoderTask, PictureBatch
from corgi_core.training.loop import train


@dataclass(frozen=True, kw_only=True)
class LinearSettings(DecoderSettings):
    """What a preset says of the decoder under `decoders: linear:`."""

    kind: ClassVar[str] = "linear"


@dataclass(frozen=True)
class LinearShape:
    """All that decides the network's tensors; saved with them."""

    embedding_width: int
    image_size: int


class LinearNetwork(nn.Module):
    """Embeddings [n, d] → images [n, 3, s, s], about in [−1, 1]."""

    def __init__(self, shape: LinearShape) -> None:
        super().__init__()
        self.shape = shape
        self.layer = nn.Linear(shape.embedding_width, 3 * shape.image_size**2)

    def forward(self, z: Tensor) -> Tensor:
        """Images of z."""
        return self.layer(z).view(-1, 3, self.shape.image_size, self.shape.image_size)


class LinearDecoder(Decoder):
    """The network as everything else uses it: batches, sizes and saving are `Decoder`'s."""

    @classmethod
    def build(cls, shape: Any) -> LinearNetwork:
        """The network of a saved shape, untrained."""
        return LinearNetwork(LinearShape(**shape))

    def sample(self, z: Tensor, text: Any, options: Any) -> Tensor:
        """Images [n, 3, s, s] in [0, 1]."""
        return unsigned(self.network(z))


class LinearTask(DecoderTask[LinearSettings, LinearNetwork]):
    """Least squares on the pixels; data, batches and held-out metrics are `DecoderTask`'s."""

    def build(self) -> LinearNetwork:
        """The network, untrained."""
        return LinearNetwork(LinearShape(self.embeddings.spec["width"], self.settings.image_size))

    def decoder(self, model: LinearNetwork, card: Any) -> LinearDecoder:
        """The trained network as a decoder."""
        return LinearDecoder(model, self.settings, self.embeddings.spec, card)

    def loss(self, model: nn.Module, batch: PictureBatch, random: Any) -> dict[str, Tensor]:
        """The mean squared error of the images."""
        return {"loss": (model(batch.z.float()) - signed(batch.pixels)).square().mean()}


# From here on presets, training, `load_decoder` and `corgi generate --decoder linear` know it.
register(
    "linear",
    decoder=f"{__name__}:LinearDecoder",
    task=f"{__name__}:LinearTask",
    settings=LinearSettings,
)


def main() -> float:
    """Train the decoder on colours whose embedding is the colour, and load it again."""
    training = TrainingSettings(steps=200, batch_size=16, learning_rate=0.02, ema_decay=0.9)
    settings = LinearSettings(
        image_size=8, cond_dropout=0.0, perturbed=0.0, min_cosine=0.5, guidance=1.0, num_steps=1,
        training=training,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        colours = np.random.default_rng(0).integers(0, 256, (40, 3), dtype=np.uint8)
        (folder / "photos").mkdir()
        for number, colour in enumerate(colours):
            Image.new("RGB", (8, 8), tuple(map(int, colour))).save(
                folder / "photos" / f"{number:02}.png"
            )
        images = ingest(
            "imagefolder", str(folder / "photos"), folder / "images", DataSettings(), seed=0
        )
        z = colours.astype(np.float16) / 128 - 1

        def embed(shard: str) -> dict[str, np.ndarray]:
            keys = images.rows(shard)["key"]
            return {"keys": np.array(keys, dtype=str), "image": z[[int(key) for key in keys]]}

        spec = {"encoder": "colours", "names": ["colours"], "encoder_dims": [3], "width": 3}
        embeddings = compute_missing(folder / "embeddings", images, spec, embed, "embeddings")
        task = LinearTask(
            settings, pixels(images, folder / "pixels", 8), embeddings,
            SplitKeys(images, "train"), SplitKeys(images, "validation"),
        )  # fmt: skip
        result = train(task, training, folder / "run")
        task.decoder(result.model, card={}).save(folder / "decoder")

        red = torch.tensor([[0.99, -1.0, -1.0]])
        mean = load_decoder(folder / "decoder").decode(red).mean(dim=(0, 2, 3))
        print(f"red, green and blue of a red embedding: {mean.tolist()}")
        return float(result.metrics["held_out_pixel_error"])


if __name__ == "__main__":
    main()
