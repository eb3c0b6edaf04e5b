"""What needs no prior: the numbers that those of the arms must be held against."""

from __future__ import annotations

import torch

from corgi_core.experiments.prior_ablation.measure import Measurement, Study

MEAN, TEXT, REAL = (
    "the training images' mean", "the CLIP text embedding", "other, real images",
)  # fmt: skip


def references(study: Study, seed: int) -> Measurement:
    """Scores of three answers to every held-out caption, as the table "references".

    The mean has a cosine and retrieves nothing. Real images of other captions have the least
    Fréchet distance that this many embeddings can have.
    """
    real, captions = torch.from_numpy(study.real), study.held_out
    random = torch.Generator().manual_seed(seed)
    others = real[torch.randint(len(real), (len(captions),), generator=random)]
    answers = {
        MEAN: real.mean(dim=0).expand_as(captions.image),
        TEXT: captions.text,
        REAL: others,
    }
    rows = [
        {"label": name, "start": name, "seed": seed, **study.judge.scores(z)}
        for name, z in answers.items()
    ]
    return {"references": rows}
