"""What workers are sent: folders and rules, and not what grows with the dataset."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.keys import SplitKeys
from corgi_core.data.subsets import caption_subset
from corgi_core.decoders.task import FineTuning
from tests.helpers.made import samples
from tests.helpers.shapes import a_task
from tests.helpers.tiny_prior import made_prior

SIZES = (40, 640)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    folder = tmp_path_factory.mktemp("datasets")
    return [
        write_dataset(folder / str(number), samples(size), shard_size=200)
        for number, size in enumerate(SIZES)
    ]


def test_a_prior_s_task_does_not_grow_with_its_data(
    datasets: list[Dataset], tmp_path: Path
) -> None:
    prior = made_prior(tmp_path)
    sizes = [
        len(
            pickle.dumps(
                replace(
                    prior,
                    captioned=caption_subset(images, 0.5, 0).of(images),
                    validation_keys=SplitKeys(images, "validation"),
                )
            )
        )
        for images in datasets
    ]
    assert abs(sizes[0] - sizes[1]) < 4  # a digit of the subset's count


def test_a_decoder_s_task_does_not_grow_with_its_data(
    datasets: list[Dataset], tmp_path: Path
) -> None:
    task = a_task(tmp_path)
    decoder = task.decoder(task.build().eval(), {})
    sizes = []
    for images in datasets:
        about = {split: SplitKeys(images, split) for split in ("train", "validation")}
        whole = replace(task, train_keys=about["train"], validation_keys=about["validation"])
        tuning = FineTuning(decoder, SplitKeys(images, "train", "noise"))
        sizes.append((len(pickle.dumps(whole)), len(pickle.dumps(replace(whole, tuning=tuning)))))
    assert sizes[0] == sizes[1]
