"""How much a preset stores of every caption for the text encoder: its tokens, or itself."""

from __future__ import annotations

from dataclasses import dataclass

from corgi_core.config import Preset, TextFeatures
from corgi_core.data.dataset import Dataset
from corgi_core.sizes.captions_like_coco import MEAN_BYTES, MEAN_TOKENS
from corgi_core.sizes.models import widths_of

_FLOAT16, _OFFSET = 2, 8  # bytes
_SAMPLE = 2000  # captions that are tokenised


@dataclass(frozen=True)
class CaptionStorage:
    """What is stored of captions beside their CLIP embedding.

    Attributes:
        features: "cached" tokens, or captions for a text encoder that runs "online".
        tokens: Of a caption, the mean.
        sample: How many captions of the dataset that mean is of; 0 for Flickr8k's.
        cached: Bytes of a caption's tokens, ragged, with their offset: the mean.
        online: Bytes of the caption itself, likewise.
        captions: Of the dataset; 0 without one.
    """

    features: TextFeatures
    tokens: float
    sample: int
    cached: float
    online: float
    captions: int

    @property
    def each(self) -> float:
        """Bytes that are stored of a caption, the mean."""
        return self.cached if self.features == "cached" else self.online


def caption_storage(preset: Preset, images: Dataset | None = None) -> CaptionStorage | None:
    """What a preset stores of captions; None where the width of a token is not known here.

    Without a dataset, or its text encoder's tokenizer, it is that of captions like COCO's.
    """
    width, most = widths_of(preset)[0], preset.encoders.text_tokens
    if width is None:
        return None
    tokens, length, sample, captions = min(MEAN_TOKENS, most), MEAN_BYTES, 0, 0
    if images is not None:
        captions = int(images.counts["captions"].sum())
        some = _first_captions(images)
        if some and (counts := _token_counts(preset.encoders.text, some, most)):
            sample, tokens = len(some), sum(counts) / len(some)
            length = sum(len(caption.encode()) for caption in some) / len(some)
    cached = tokens * width * _FLOAT16 + _OFFSET
    return CaptionStorage(preset.text_features, tokens, sample, cached, length + _OFFSET, captions)


def _first_captions(images: Dataset) -> list[str]:
    """The first captions of the dataset, from as few shards as have enough."""
    found: list[str] = []
    for rows in images.iter_rows("captions"):
        found += [caption for captions in rows["captions"] for caption in captions or []]
        if len(found) >= _SAMPLE:
            break
    return found[:_SAMPLE]


def _token_counts(text: str, captions: list[str], most: int) -> list[int]:
    """The number of tokens of each caption; none where the tokenizer is not on this machine."""
    from transformers import PreTrainedTokenizerFast

    from corgi_core.encoders.tokens import transformers_source

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(
            transformers_source(text), local_files_only=True
        )
    except (OSError, ValueError):
        return []
    found = tokenizer(captions, truncation=True, max_length=most)
    return [len(ids) for ids in found["input_ids"]]
