"""`corgi generate`: a prompt drawn by the champions of the model registry."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from corgi_core.errors import CorgiError
from orchestration.champions import champion_folder
from orchestration.settings import Settings

if TYPE_CHECKING:
    from corgi_core.generate import TextToImage


def draw(
    settings: Settings,
    prompt: str,
    count: int,
    out: Path,
    *,
    seed: int,
    steps: int | None,
    guidance: float | None,
) -> None:
    """Write `count` pictures of `prompt` to the PNG `out`, in a grid if there are several.

    The PNG's text chunk "corgi" says how they came about.
    """
    if out.suffix.lower() != ".png":
        raise CorgiError(f"{out} is no PNG file", "give --out a name that ends in .png")
    if out.is_dir():
        raise CorgiError(f"{out} is a folder", "give --out the name of a file")
    model = champions(settings)
    from corgi_core.pictures import grid, picture, save_png

    pictures = model.generate(prompt, count, seed=seed, decoder_steps=steps, guidance=guidance)
    columns = math.ceil(math.sqrt(count))
    save_png(
        picture(pictures[0]) if count == 1 else grid(pictures, columns),
        out,
        {
            "prompt": prompt,
            "count": count,
            "seed": seed,
            "steps": steps,
            "guidance": guidance,
            "prior": model.prior.digest,
            "decoder": model.decoder.digest,
        },
    )


def champions(settings: Settings) -> TextToImage:
    """The workspace's champions, put together; a CorgiError where one is missing or misfits."""
    if settings.preset.decoder is None:
        raise CorgiError(
            f"the preset {settings.preset.name} has embeddings only, and no decoder to draw with",
            "generate in a workspace whose data are pictures",
        )
    folders = {part: champion_folder(settings, part) for part in ("prior", "decoder", "clip")}
    from corgi_core.decoders.model import DecoderModel
    from corgi_core.encoders.text import TokenEncoder
    from corgi_core.encoders.text_tower import ClipTextTower
    from corgi_core.generate import TextToImage
    from corgi_core.prior.model import PriorModel

    encoders = settings.preset.encoders
    return TextToImage(
        clip=ClipTextTower.load(folders["clip"]),
        tokens=TokenEncoder.load(encoders.text, encoders.text_tokens),
        prior=PriorModel.load(folders["prior"]),
        decoder=DecoderModel.load(folders["decoder"]),
    )
