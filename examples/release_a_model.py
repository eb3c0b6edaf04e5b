"""Make a workspace's champions a released model, with its card: see docs/released-model.md.

python examples/release_a_model.py emoji-full.styles corgi_core/released/emoji-full
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from corgi_core import CorgiPipeline
from corgi_core.data.dataset import Dataset
from corgi_core.evaluation.plain_scores import BOUNDS
from corgi_core.evaluation.score_rows import BIAS, ScoreRow, label, picture_rows, prior_rows
from corgi_core.released.compact import write_compact

PRIOR_SCORES = ("cosine", "recall_at_1", "recall_at_5")
PICTURE_SCORES = ("clip_similarity_image", "clip_similarity_text", "fid", "frechet_clip", "copies")
PAGE = """# {name}: a small text-to-image model of emoji

{parameters} million parameters (prior and decoder) as float16, {size} × {size} pixels. CLIP ({clip}), the prior `{prior}` and the decoder `{decoder}`,
trained by Corgi's preset `{preset}`. The text encoder is MiniLM (all-MiniLM-L6-v2, Apache-2.0), which is an installed package.

- **Use**: first pictures before anything is trained, demonstrations, tests. It knows emoji and their English names, nothing else.
- **Not for**: pictures of people or of anything outside the emoji; decisions of any kind. Many training pictures are people in
  six skin tones; what it says of people is what emoji say.
- **Data**: {images} pictures for training, with {captions} captions. {sources}. A hash of the base emoji decides the split: of the
  held-out emoji no variant and no other style was trained on. Data version {version}.
- **Licence**: Apache-2.0, as Corgi. The pictures that it learned from: Noto Emoji © Google (Apache-2.0); Twemoji © Twitter, Inc and
  other contributors (CC BY 4.0); Fluent Emoji © Microsoft (MIT).
- **Recipe and findings**: docs/released-model.md has the commands, and says what the numbers below mean.

## What was measured

{protocol}. In brackets, where there is one: the 95 % interval, of FID and Fréchet distances by a jackknife over
parts of the pictures, of other scores by a bootstrap over captions. A bias is an estimate of how far apart sets of so many pictures
are that differ in nothing. The first rows are what anything must be compared with.

{priors}

Pictures:

{pictures}
"""  # noqa: E501


def table(rows: Iterable[ScoreRow], names: Sequence[str]) -> str:
    """A Markdown table, with intervals and biases where there are some."""
    lines = [
        "| " + " | ".join(["row", *map(label, names)]) + " |",
        "|---" * (1 + len([*names])) + "|",
    ]
    for row in rows:
        cells = (_cell(row, name) for name in names)
        lines.append("| " + " | ".join([row.name, *cells]) + " |")
    return "\n".join(lines)


def _cell(row: ScoreRow, name: str) -> str:
    point = row.point(name)
    if point is None:
        return "–"
    value, low, high = point
    notes = [f"{low:.3f}–{high:.3f}"] if name + BOUNDS[0] in row.scores else []
    notes += [f"bias {row.scores[name + BIAS]:.3f}"] if name + BIAS in row.scores else []
    return f"{value:.3f} ({', '.join(notes)})" if notes else f"{value:.3f}"


def about_data(images: Dataset) -> dict[str, Any]:
    """How many training images and captions there are, and their sources with licences."""
    sources: dict[str, int] = {}
    captions = 0
    for part in images.iter_rows("source", "split", "captions"):
        trained = part[part["split"] == "train"]
        captions += int(trained["captions"].dropna().map(len).sum())
        for source, count in trained["source"].value_counts().items():
            sources[str(source)] = sources.get(str(source), 0) + int(count)
    return {"images": sum(sources.values()), "captions": captions, "sources": sources}


def main(workspace: str, out: str, home: str = ".corgi", data: str = "data") -> None:
    """Write the folder, from the workspace's champions, its evaluation and its data."""
    name, _, dataset = workspace.partition(".")
    pipeline = CorgiPipeline.from_pretrained(workspace, home=home)
    metrics = json.loads((Path(home) / workspace / "reports" / "metrics.json").read_text())
    images = Dataset.load(Path(data) / (dataset or name) / "images")
    about, protocol = about_data(images), metrics["protocol"]
    parts = {"prior": pipeline.prior, "decoder": pipeline.decoder}
    card = {
        "name": name,
        "data": about | {"version": protocol["data_version"]},
        "parts": {part: model.card for part, model in parts.items()},
        "protocol": protocol,
        "priors": {row.name: dict(row.scores) for row in prior_rows(metrics)},
        "pictures": {row.name: dict(row.scores) for row in picture_rows(metrics)},
    }
    networks = (pipeline.prior.network, pipeline.decoder.network)
    parameters = sum(p.numel() for network in networks for p in network.state_dict().values())
    page = PAGE.format(
        name=name, preset=name, parameters=round(parameters / 1e6), size=pipeline.image_size,
        clip=", ".join(protocol["encoders"]), prior=pipeline.prior.card["labels"]["variant"],
        decoder=pipeline.decoder.kind, images=f"{about['images']:,}",
        captions=f"{about['captions']:,}", version=protocol["data_version"],
        sources=", ".join(f"{source}: {n:,}" for source, n in about["sources"].items()),
        protocol=f"{protocol['held_out_captions']} held-out captions, pictures of "
        f"{protocol['decoded_images']} of them",
        priors=table(prior_rows(metrics), PRIOR_SCORES),
        pictures=table(picture_rows(metrics), PICTURE_SCORES),
    )  # fmt: skip
    size = write_compact(pipeline, Path(out), page, card)
    print(f"{out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
