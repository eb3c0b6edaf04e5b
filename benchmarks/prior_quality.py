"""How fast priors sample at one quality: `python -m benchmarks.prior_quality STORES IMAGES OUT`.

Captions a second at equal steps, as `benchmarks.prior` has them, say nothing of what is sampled.
Here Corgi's prior, diffusers' and DALLE2-pytorch's learn from the same captions for the same time,
and each is sampled with its own sampler in its own best steps and guidance. Of these the fastest
counts that reaches a quality which all reach.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Self

import numpy as np
import typer
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from upath import UPath

from benchmarks.front import Measured
from benchmarks.prior_systems.parent import MODULES, SLICES, Child, children, in_turn
from benchmarks.prior_systems.quality import (
    Quality,
    Row,
    by_system,
    fastest,
    qualities_of_all,
    table_of,
)
from benchmarks.prior_systems.system import Case
from corgi_core.config import preset_named
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.splits import TEST, VALIDATION
from corgi_core.encoders.similarity import recall_at, scale_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.evaluation.held_out import HeldOut
from corgi_core.evaluation.split_overlap import SplitOverlap
from corgi_core.io.files import write_json
from corgi_core.metrics.frechet import FeatureStatistics, frechet_distance

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

CHOSEN_AT = (4, 1.0)  # steps and guidance at which learning rates are compared
FEWEST_STEPS = {"diffusers": 2}  # of its scheduler; the others' take one


@app.command()
def main(
    stores: Annotated[
        Path, typer.Argument(help="The folder with both embeddings and split_overlap.")
    ],
    images: Annotated[Path, typer.Argument(help="The dataset that they are of.")],
    out: Annotated[Path, typer.Argument(help="For quality.json and quality.md.")],
    systems: Annotated[str, typer.Option(help="Who takes part.")] = ",".join(MODULES),
    seconds: Annotated[float, typer.Option(help="Of a thread's training, each.")] = 600,
    learning_rates: Annotated[str, typer.Option(help="Of which validation chooses.")] = "3e-4,1e-3",
    batch: Annotated[int, typer.Option(help="Captions of a training step.")] = 64,
    layers: Annotated[int, typer.Option(help="Of every network; width 512, 8 heads.")] = 1,
    steps: Annotated[str, typer.Option(help="Evaluations of the network.")] = "1,2,4,8,16,32,64",
    guidances: Annotated[str, typer.Option(help="Scales of the guidance; 1 is none.")] = "1,1.5,2",
    captions: Annotated[int, typer.Option(help="Held-out captions of a split, at most.")] = 1000,
    batches: Annotated[str, typer.Option(help="Captions at once, for speed.")] = "1,16",
    rounds: Annotated[int, typer.Option(help="Of the measurement of speed.")] = 5,
    threads: Annotated[int, typer.Option(help="Of the CPU.")] = 1,
) -> None:
    """Train every system for the same seconds, find what each reaches, and time that.

    [bold]Training[/bold]: all learning rates of all systems take turns; fitting Corgi's Gaussians
    is part of its seconds. The rate is chosen by the Fréchet distance after 4 steps.
    [bold]Quality[/bold]: the lowest Fréchet distance on the validation split that all reach, and
    the highest recall@5 that all reach at it; and the same with recall first. A third is the best
    Fréchet distance that Corgi reaches, which others need not.
    [bold]Seconds[/bold] on a CPU are the processor's, so that other work counts for nobody.
    """
    names = systems.split(",")
    if unknown := set(names) - set(MODULES):
        raise CorgiError(f"there is no system {unknown.pop()!r}", f"choose of {', '.join(MODULES)}")
    texts = ArrayStore.load(UPath(stores) / "text_embeddings")
    case = Case(
        "quality", dim=texts.spec["width"], batch=batch, text_tokens=texts.spec["text_tokens"],
        layers=layers, noise_samples=preset_named("embeddings").prior.noise_samples,
        seconds=seconds, held_out=captions, stores=str(stores.resolve()),
        images=str(images.resolve()),
    )  # fmt: skip
    each = [(name, float(rate)) for name in names for rate in learning_rates.split(",")]
    grid = [(int(s), float(g)) for s, g in product(steps.split(","), guidances.split(","))]
    sizes = [int(size) for size in batches.split(",")]
    home = Path(os.environ.get("CORGI_HOME", ".corgi")) / "benchmarks"
    with (
        children([name for name, _ in each], threads, home) as running,
        TemporaryDirectory() as folder,
    ):
        priors = [
            Prior(child, replace(case, learning_rate=rate), Path(folder))
            for child, (_, rate) in zip(running, each, strict=True)
        ]
        validation = Scores.of(stores, images, captions)
        trained = _train(priors, validation)
        chosen = {name: min(own, key=_by_frechet) for name, own in by_system(trained).items()}
        best = {name: priors[trained.index(row)] for name, row in chosen.items()}
        rows = []
        for prior, (count, scale) in product(best.values(), grid):
            if count >= prior.fewest_steps:
                rows.append(prior.row(validation, count, scale))
                print(rows[-1], flush=True)
        qualities = qualities_of_all(rows)
        if ours := by_system(rows).get("corgi"):
            row = min(ours, key=_by_frechet)
            qualities["ours"] = Quality(row["frechet"], row["recall_at_5"])
        test = Measured.load(stores, images, TEST, captions)
        reports = [
            report(best[name], own, quality, test) | {"quality": of}
            for of, quality in qualities.items()
            for name, own in by_system(rows).items()
        ]
        measure_rates(best, [row for row in reports if row["reached"]], sizes, rounds)
    result = {
        "trained": trained, "validation": rows, "test": reports,
        "references": list(test.references()),
        "qualities": {name: vars(quality) for name, quality in qualities.items()},
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "quality.json", result)
    (out / "quality.md").write_text(table_of(reports, qualities, sizes), encoding="utf-8")
    print(table_of(reports, qualities, sizes))


@dataclass(frozen=True)
class Scores:
    """The Fréchet distance and recall@5 of samples of a split's captions."""

    images: Tensor  # [n, d]
    dims: tuple[int, ...]

    @classmethod
    def of(cls, stores: Path, images: Path, captions: int) -> Self:
        """Of the validation captions that a child samples."""
        image = ArrayStore.load(UPath(stores) / "image_embeddings")
        left_out = SplitOverlap.load(UPath(stores) / "split_overlap").left_out
        dataset = Dataset.load(UPath(images))
        chosen = HeldOut.of(dataset, captions, left_out=left_out, split=VALIDATION)
        found = chosen.image_embeddings(np.arange(len(chosen)), image)
        return cls(found, tuple(image.spec["encoder_dims"]))

    def __call__(self, z: Tensor) -> Row:
        """Of samples [n, d]."""
        units = (scale_per_encoder(x, self.dims) for x in (z, self.images))
        ours, real = (FeatureStatistics.of(F.normalize(x).numpy()) for x in units)
        recall = recall_at(z, self.images, (5,), self.dims)[5]
        return {"frechet": frechet_distance(ours, real), "recall_at_5": recall}


@dataclass(frozen=True)
class Prior:
    """A system's process with a prior of its own."""

    child: Child
    case: Case
    folder: Path

    def sample(self, split: str, steps: int, guidance: float) -> Tensor:
        """Embeddings [n, d] of the captions of a split."""
        path = str(self.folder / "samples.safetensors")
        self.child.ask("sample", split=split, steps=steps, guidance=guidance, path=path)
        return load_file(path)["z"]

    def row(self, scores: Scores, steps: int, guidance: float) -> Row:
        """The scores of the validation captions."""
        found = scores(self.sample(VALIDATION, steps, guidance))
        return {"system": self.child.name, "steps": steps, "guidance": guidance, **found}

    @property
    def fewest_steps(self) -> int:
        """That its sampler can take."""
        return FEWEST_STEPS.get(self.child.name, 1)


def _train(priors: Sequence[Prior], scores: Scores) -> list[Row]:
    """Train all in turn; a row for each, with the scores by which the rate is chosen."""
    for prior in priors:
        prior.child.prepare(prior.case)
    of = {id(prior.child): prior for prior in priors}

    def learn(child: Child) -> None:
        child.ask("learn", seconds=of[id(child)].case.seconds / SLICES)

    in_turn([prior.child for prior in priors], SLICES, learn)
    rows = []
    for prior in priors:
        trained = prior.child.ask("learn", seconds=prior.case.seconds)
        rate = {"learning_rate": prior.case.learning_rate}
        rows.append({**prior.row(scores, *CHOSEN_AT), **rate, **trained})
        print(rows[-1], flush=True)
    return rows


def report(prior: Prior, rows: Sequence[Row], quality: Quality, test: Measured) -> Row:
    """The test scores of the fastest setting that reaches a quality; without one, of the nearest.

    Nearest is the setting with the lowest Fréchet distance.
    """
    row = fastest(rows, quality)
    scored = row or min(rows, key=_by_frechet)
    setting = {name: scored[name] for name in ("system", "steps", "guidance")}
    z = prior.sample(TEST, scored["steps"], scored["guidance"])
    return {**setting, **test.scores(z.unsqueeze(0)), "reached": row is not None}


def measure_rates(
    priors: Mapping[str, Prior], rows: Sequence[Row], batches: Sequence[int], rounds: int
) -> None:
    """Add captions a second by batch to the rows, "per_second": medians, the systems in turn."""
    for row, batch in product(rows, batches):
        row.setdefault("seconds", {})[batch] = []
    for number in range(rounds + 1):  # the first warms up
        for row, batch in product(rows, batches):
            setting = {name: row[name] for name in ("steps", "guidance")}
            answer = priors[row["system"]].child.ask("rate", batch=batch, **setting)
            if number:
                row["seconds"][batch].append(answer["seconds"])
    for row in rows:
        found = row["seconds"].items()
        row["per_second"] = {batch: batch / statistics.median(times) for batch, times in found}


def _by_frechet(row: Row) -> float:
    return float(row["frechet"])


if __name__ == "__main__":
    try:
        app()
    except CorgiError as error:
        sys.exit(f"{error}")
