"""Minutes from nothing to pictures of a fixed quality: `python -m benchmarks.speedrun`.

A fresh workspace is trained: data, CLIP, one prior, one decoder. The clock runs from the first step
to the last; nothing is evaluated or registered in between. Then pictures of all validation captions
are judged by a CLIP that the run has not trained: the released model's. The run counts where the
captions' true images are found among all by their pictures (recall at 5), and the pictures as a set
are like the real ones (Fréchet distance), at least as well as the targets ask.

`SPEEDRUN.md` has the rules and a row a change.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from corgi_core.data.dataset import Dataset
from corgi_core.data.keys import SplitKeys
from corgi_core.data.splits import VALIDATION
from corgi_core.encoders.similarity import mean_encoder_cosine, recall_at
from corgi_core.errors import CorgiError
from corgi_core.io.model_index import TextEncoderName
from corgi_core.io.released import released_folder
from corgi_core.metrics.frechet import FeatureStatistics, frechet_distance
from corgi_core.pipeline import CorgiPipeline
from orchestration.automation.refresh import Refresh, Step
from orchestration.cli.run import opened_refresh
from orchestration.cli.screen import StepDisplay, own_screen
from orchestration.settings import Settings

RECALL, FRECHET = 0.25, 0.27  # the targets: what the preset reached before it was made faster
RANK = 5
SUBSET = "100%"
AT_ONCE = 64  # pictures
WANTED = ("prior", "decoder")


@dataclass(frozen=True)
class Verdict:
    """What the judge says of the pictures, and of the real images as the best there can be.

    Attributes:
        recall: Share of the validation captions whose true image is among the five nearest.
        frechet: Fréchet distance from the real validation images, under the judge.
        similarity: Mean cosine to the true image.
    """

    recall: float
    frechet: float
    similarity: float

    @property
    def is_reached(self) -> bool:
        """Whether both targets are."""
        return self.recall >= RECALL and self.frechet <= FRECHET


def train(settings: Settings) -> tuple[float, dict[str, float]]:
    """Train one prior and one decoder from nothing; returns the seconds, in all and by step."""
    seconds: dict[str, float] = {}
    with own_screen(settings) as console:
        began = time.perf_counter()
        refresh = opened_refresh(settings, "corgi/speedrun")
        steps = _steps(refresh)
        with StepDisplay.on(console, len(steps)) as display:
            for step in steps:
                before = time.perf_counter()
                refresh.run([step], display)
                seconds[step.title] = time.perf_counter() - before
        return time.perf_counter() - began, seconds


def _steps(refresh: Refresh) -> list[Step]:
    """What the models are made from, and they themselves."""
    steps, graph = refresh.all_steps(), refresh.repository.asset_graph
    wanted = {step.asset for step in steps if step.asset.path[-1] in WANTED}
    above = set(wanted)
    for key in wanted:
        above |= graph.get_ancestor_asset_keys(key)
    return [step for step in steps if step.asset in above]


def trained_pipeline(settings: Settings, variant: str) -> CorgiPipeline:
    """The models that `train` has trained."""
    encoders, decoder = settings.preset.encoders, settings.preset.decoder
    assert decoder is not None
    return CorgiPipeline.from_folders(
        settings.storage / "clip_encoder",
        settings.storage / "prior" / SUBSET / variant,
        settings.storage / "decoder" / decoder.kind,
        TextEncoderName(encoders.text, encoders.text_tokens),
    )


def judged(judge: CorgiPipeline, pipeline: CorgiPipeline, images: Dataset) -> Verdict:
    """A picture of every validation image's first caption, seed 0, beside that image."""
    captions, files = validation_images(images)
    made = [
        judge.embed_image(pipeline.text_to_image(captions[i : i + AT_ONCE], output_type="pt"))
        for i in range(0, len(captions), AT_ONCE)
    ]
    return verdict_of(torch.cat(made), judge.embed_image(files), judge.encoder_dims)


def verdict_of(made: Tensor, real: Tensor, encoder_dims: tuple[int, ...]) -> Verdict:
    """The judge's embeddings [n, d] of n pictures and of their true images."""
    made_of, real_of = (FeatureStatistics.of(F.normalize(z, dim=1).numpy()) for z in (made, real))
    return Verdict(
        recall_at(made, real, (RANK,), encoder_dims)[RANK],
        frechet_distance(real_of, made_of),
        float(mean_encoder_cosine(made, real, encoder_dims).mean()),
    )


def validation_images(images: Dataset) -> tuple[list[str], list[bytes]]:
    """The first captions of the validation images, and these images' files."""
    split, captions, files = SplitKeys(images, VALIDATION), [], []
    for shard in images.shards:
        rows = images.rows(shard, "key", "captions").set_index("key")["captions"].dropna()
        keys = rows.index.to_numpy(dtype=str)
        first = {key: rows[key][0] for key in keys[split.among(shard, keys)]}
        for key, file in images.images(shard):
            if key in first:
                captions.append(first[key])
                files.append(file)
    return captions, files


def main(arguments: list[str] | None = None) -> int:
    """Run, judge, print; returns 0 where both targets are reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="emoji")
    parser.add_argument("--variant", default="shifted-k16", help="of the prior")
    parser.add_argument("--set", action="append", default=[], help="a setting, as corgi run has it")
    parser.add_argument("--judge", type=Path, default=released_folder(), help="a saved pipeline")
    parser.add_argument("--home", type=Path, help="of the workspace, which must be new")
    chosen = parser.parse_args(arguments)
    if chosen.judge is None:
        raise CorgiError("there is no released model to judge by", "give a saved pipeline: --judge")
    with tempfile.TemporaryDirectory() as temporary:
        home = chosen.home or Path(temporary)
        if home.exists() and any(home.iterdir()):
            raise CorgiError(
                f"{home} is not empty", "give a new folder: the clock starts at nothing"
            )
        variables = {
            **os.environ, "CORGI_HOME": str(home / "home"), "CORGI_DATA": str(home / "data")
        }  # fmt: skip
        asked = [f'variants=["{chosen.variant}"]', f'caption_subsets=["{SUBSET}"]', *chosen.set]
        settings = Settings.load(variables, preset=chosen.preset, overrides=asked)
        total, seconds = train(settings)
        verdict = judged(
            CorgiPipeline.from_pretrained(chosen.judge),
            trained_pipeline(settings, chosen.variant),
            Dataset.load(settings.dataset_folder / "images"),
        )
    for title, each in seconds.items():
        print(f"{each:8.1f} s  {title}")
    print(f"{total:8.1f} s  in all")
    print(
        f"recall@{RANK} {verdict.recall:.3f} (at least {RECALL}), Fréchet distance "
        f"{verdict.frechet:.3f} (at most {FRECHET}), similarity {verdict.similarity:.3f}: "
        + (f"reached in {total / 60:.1f} minutes" if verdict.is_reached else "not reached")
    )
    return 0 if verdict.is_reached else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CorgiError as error:
        sys.exit(str(error))
