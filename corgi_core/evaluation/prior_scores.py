"""How near priors come to the true embeddings of held-out captions, by number of sampling steps.

The cosine alone rewards predicting the mean, so the recall of the true image among all held-out
ones stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corgi_core.config import PriorSettings
from corgi_core.data.arrays import Arrays, ArrayStore
from corgi_core.data.revisions import PREDICTION_SCORES_REVISION
from corgi_core.encoders.similarity import Retrieval, cosine_by_encoder
from corgi_core.errors import CorgiError
from corgi_core.evaluation.derangement import derangement
from corgi_core.evaluation.predictors import Predict, Predictor
from corgi_core.evaluation.report import SHUFFLED, STRATA
from corgi_core.evaluation.sampling import SamplingJob
from corgi_core.evaluation.sharing import Columns, in_batches
from corgi_core.evaluation.stored_models import Latest
from corgi_core.io.files import digest_of
from corgi_core.metrics.bootstrap import CI_HIGH, CI_LOW, with_intervals
from corgi_core.metrics.retrieval import recalls

if TYPE_CHECKING:
    import pandas as pd

ALONG, TIMESTEPS = "along", "timesteps"  # arrays

Name = tuple[str, str]  # (variant, caption subset)


class Described(Protocol):
    """A prior of which settings and encoders are known."""

    @property
    def settings(self) -> PriorSettings:
        """Its settings."""

    @property
    def encoders(self) -> dict[str, Any]:
        """The `spec` of the embeddings that it was trained on."""


Prior = TypeVar("Prior", bound=Described)


def comparable_priors(
    priors: Mapping[Name, Prior], settings: PriorSettings, encoders: Mapping[str, Any]
) -> dict[Name, Prior]:
    """The priors that can be compared: those of the same settings and encoders.

    A variant that the preset does not list is not materialised by default, so it is left out once
    it is stale, until it is materialised again.

    Args:
        priors: The priors by (variant, caption subset).
        settings: The present settings of a prior.
        encoders: The present text embeddings' `spec`.

    Returns:
        The priors of these settings and encoders, by the same names.

    Raises:
        CorgiError: there is none.
    """
    found = {
        name: prior for name, prior in priors.items()
        if prior.settings == settings and prior.encoders == encoders
    }  # fmt: skip
    if not found:
        raise CorgiError(
            f"none of {len(priors)} priors was trained with the present settings and encoders",
            "materialise the priors of the preset's variants first",
        )
    return found


@dataclass(frozen=True)
class PredictionScores(SamplingJob[Predictor]):
    """How near predicted embeddings come to the true ones, caption by caption.

    Arrays, for each name s of a prediction, such as a number of steps: "s/cosines" [n, B] by
    encoder, "s/nearer" [n], how many other images' embeddings are at least as near to the predicted
    one as the true one's, and "s/seconds" [n]. Of the controlled prediction also "shuffled/cosines"
    and "shuffled/nearer": the same with another caption's image in the true one's role. Of samples
    that were compared on their way "s/along" [n, S, B], the cosines at S timesteps, and
    "s/timesteps" [n, S], these.
    """

    revision = PREDICTION_SCORES_REVISION

    @property
    def about(self) -> dict[str, Any]:
        """The stores that are compared, and a digest of the images that retrieval searches."""
        return {
            "images": self.image_embeddings.digest,
            "texts": self.text_embeddings.digest,
            "among": digest_of(self.images.captions.keys),
            "precision": self.precision,
        }

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a shard's name to its arrays; all true embeddings are in memory."""
        here, captions = torch.device(device), self.images.captions
        latest = Latest[Callable[[NDArray[np.int64]], Predict]]()
        source = self.source
        dims = self.image_embeddings.spec["encoder_dims"]
        true = captions.image_embeddings(np.arange(len(captions)), self.image_embeddings)
        distinct, own = torch.unique(true, dim=0, return_inverse=True)
        retrieval = Retrieval(distinct.to(here), dims)
        others = derangement(len(captions))
        size = self.captions_at_once(here)

        def against(z: Tensor, images: Tensor, name: str) -> Columns:
            """Cosines of z [b, d] to the images with these rows [b], and how many are nearer."""
            cosines = cosine_by_encoder(z, true[images].to(here), dims)
            nearer = retrieval.nearer(z, own[images].to(here))
            return {
                f"{name}/cosines": cosines.cpu().numpy(),
                f"{name}/nearer": nearer.cpu().numpy(),
            }

        def compared(shard: str) -> Arrays:
            case, rows = self.images.part(shard)
            predict = latest(case.digest, partial(case.opened, source, here))(rows)

            def compare(at: NDArray[np.int64]) -> Columns:
                images, found = torch.from_numpy(rows[at]), dict[str, np.ndarray]()
                for name, predicted, seconds, along in predict(at):
                    z = predicted.to(here)
                    found |= against(z, images, name)
                    found[f"{name}/seconds"] = np.full(len(at), seconds / len(at))
                    if along:
                        of_steps = torch.stack(list(along.values()), dim=1)  # [b, S, B]
                        found[f"{name}/{ALONG}"] = of_steps.float().numpy()
                        found[f"{name}/{TIMESTEPS}"] = np.tile(list(along), (len(at), 1))
                    if name == case.controlled:
                        found |= against(z, others[images], SHUFFLED)
                return found

            keys = self.images.keys(shard)
            return {"keys": keys, **in_batches(compare, len(rows), size, here, threads)}

        return compared


def scores_of(
    store: ArrayStore,
    shards: Sequence[str],
    name: str,
    names: Sequence[str],
    near: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """The means over captions of the arrays of `PredictionScores`.

    Args:
        store: The arrays.
        shards: Those of one case.
        name: The prediction's: the number of steps, "once", or "shuffled".
        names: The encoders' names.
        near: Which images [n] have a near neighbour among the training images.

    Returns:
        "cosine", "recall_at_1" and "recall_at_5", each with the ends of its 95 % interval over
        captions ("cosine_ci_low", "cosine_ci_high"); "cosine_by_encoder", by their names, with
        intervals too; the "count" of captions, and of samples the "seconds" that they took, summed
        over all workers. With `near` also "near" and "far": the same of the images with a near
        neighbour and of those without, found among all; of none, the count alone.
    """

    def column(array: str) -> NDArray[Any]:
        return np.concatenate([store.mapped(shard, f"{name}/{array}") for shard in shards])

    cosines, nearer = column("cosines"), column("nearer")
    scores = _means(cosines, nearer, names)
    if name != SHUFFLED and (seconds := float(column("seconds").sum())):
        scores["seconds"] = round(seconds, 3)
    if near is not None:
        for stratum, rows in zip(STRATA, (near, ~near), strict=True):
            scores[stratum] = _means(cosines[rows], nearer[rows], names)
    return scores


def cosine_by_timestep(
    store: ArrayStore,
    shards: Sequence[str],
    name: str,
    near: NDArray[np.bool_] | None = None,
) -> dict[str, dict[str, Any]]:
    """How near the predictions on the way from noise to the samples are to the true embeddings.

    Args:
        store: The arrays of `PredictionScores`.
        shards: Those of one case, whose predictions were compared.
        name: The number of steps.
        near: Which images [n] have a near neighbour among the training images.

    Returns:
        By timestep, from noise on, "cosine" with the ends of its interval over captions. With
        `near` also "near" and "far", the same of these images and of the others.
    """
    cosines = np.concatenate([store.mapped(shard, f"{name}/{ALONG}") for shard in shards])
    timesteps = store.mapped(shards[0], f"{name}/{TIMESTEPS}")[0].tolist()
    means = cosines.mean(axis=2, dtype=np.float64)
    found: dict[str, dict[str, Any]] = _curve(timesteps, means)
    if near is not None:
        for stratum, rows in zip(STRATA, (near, ~near), strict=True):
            for t, scores in _curve(timesteps, means[rows]).items():
                found[t][stratum] = scores
    return found


def _curve(timesteps: Sequence[int], cosines: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
    """The means over n captions of cosines [n, S], by timestep, with intervals; of none nothing."""
    if not len(cosines):
        return {str(t): {} for t in timesteps}
    of_all = with_intervals(dict(zip(map(str, timesteps), cosines.T, strict=True)))
    return {
        str(t): {
            f"cosine{end}": of_all[f"{t}{end}"]
            for end in ("", CI_LOW, CI_HIGH)
            if f"{t}{end}" in of_all
        }
        for t in timesteps
    }


def caption_scores(
    store: ArrayStore,
    shards: Sequence[str],
    name: str,
    near: NDArray[np.bool_] | None = None,
) -> pd.DataFrame:
    """What `scores_of` takes the means of, caption by caption.

    Args:
        store: The arrays.
        shards: Those of one case.
        name: The prediction's.
        near: Which images [n] have a near neighbour among the training images.

    Returns:
        A row a caption, in the captions' order: "key", the image's; "cosine", averaged over the
        encoders; "rank", that of the true image among all, from 1; and with `near` that.
    """
    import pandas as pd

    def column(array: str) -> NDArray[Any]:
        return np.concatenate([store.mapped(shard, f"{name}/{array}") for shard in shards])

    cosines = column("cosines").mean(axis=1, dtype=np.float64)
    keys = np.concatenate([store.shard_keys(shard) for shard in shards])
    found = pd.DataFrame({"key": keys, "cosine": cosines, "rank": column("nearer") + 1})
    return found if near is None else found.assign(near=near)


def _means(cosines: NDArray[Any], nearer: NDArray[Any], names: Sequence[str]) -> dict[str, Any]:
    """The means over captions of cosines [n, B] and ranks [n], their intervals, and n."""
    if not len(nearer):
        return {"count": 0}
    by_encoder = dict(zip(names, cosines.T, strict=True))
    each = {"cosine": cosines.mean(axis=1, dtype=np.float64)}
    return {
        **with_intervals(each | recalls(nearer)),
        "cosine_by_encoder": with_intervals(by_encoder),
        "count": len(nearer),
    }
