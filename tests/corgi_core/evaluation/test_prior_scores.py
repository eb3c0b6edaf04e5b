"""How priors are scored where images have several captions."""

from __future__ import annotations

import numpy as np
import torch

from corgi_core.data.ragged import RaggedArray
from corgi_core.evaluation.prior_scores import embedding_scores
from corgi_core.prior.task import Captions


def test_five_captions_an_image_do_not_compete_with_each_other() -> None:
    image = torch.randn(8, 12, generator=torch.Generator().manual_seed(0)).repeat_interleave(5, 0)
    tokens = RaggedArray.of_lengths(np.zeros((40, 1), np.float16), np.ones(40, np.int64))
    captions = Captions(tokens, image, image)
    perfect = embedding_scores(image, captions, (4, 8), ("a", "b"))
    assert (perfect["recall_at_1"], perfect["count"]) == (1.0, 40)
    others = embedding_scores(image.roll(5, 0), captions, (4, 8), ("a", "b"))
    assert others["recall_at_1"] == 0
    one = embedding_scores(image[:1].expand(40, -1), captions, (4, 8), ("a", "b"))
    assert one["recall_at_1"] == 1 / 8  # the same answer to all is right for one image of eight
