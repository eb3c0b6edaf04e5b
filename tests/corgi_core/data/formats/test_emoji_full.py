"""Emoji in all styles with all names, against the package emoji's own tables."""

from collections import Counter
from pathlib import Path

import pytest
from emoji import EMOJI_DATA

from corgi_core.data.formats import READERS
from corgi_core.data.formats.emoji import VENDORS, read, read_full
from corgi_core.data.shards import Sample
from corgi_core.errors import CorgiError
from tests.helpers.tiny_pipeline import png

FILES = {  # as the npm package names its files
    "1f34e.webp": "noto-1f34e", "23-fe0f-20e3.webp": "noto-0023-20e3",
    "1f468-1f3fe-200d-1f9bd.webp": "noto-1f468-1f3fe-200d-1f9bd",
    "1f3f4-e0067_e0062_e0065_e006e_e0067.webp":
        "noto-1f3f4-e0067-e0062-e0065-e006e-e0067-e007f",
}  # fmt: skip


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    package = tmp_path_factory.mktemp("fluent")
    (package / "assets").mkdir()
    for number, name in enumerate(FILES):
        (package / "assets" / name).write_bytes(png(number))
    found = list(read_full(package))
    by_key = {sample.key: sample for sample in found}
    assert len(by_key) == len(found)
    return by_key


def test_every_picture_has_the_caption_that_it_has_in_the_small_dataset_and_more(
    samples: dict[str, Sample],
) -> None:
    for small in read():
        full = samples[small.key]
        assert (full.image, full.group, full.source) == (small.image, small.group, small.source)
        assert (full.captions or [])[:1] == (small.captions or [])
        assert len(full.captions or []) == len(set(full.captions or []))


def test_a_third_style_is_in_the_group_of_the_other_styles(samples: dict[str, Sample]) -> None:
    fluent = {key: sample for key, sample in samples.items() if key.startswith("fluent")}
    assert len(fluent) == len(FILES)
    for other in FILES.values():
        own = fluent[other.replace("noto", "fluent")]
        assert own.group == samples[other].group
        assert own.source == "fluent (MIT)"
        assert own.suffix == "webp"
        assert own.captions == [
            caption.replace("noto style", "fluent style") for caption in samples[other].captions
        ]


def test_an_apple_has_its_names_with_the_style_and_one_without(samples: dict[str, Sample]) -> None:
    assert samples["twemoji-1f34e"].captions == [
        "red apple, twemoji style", "apple, twemoji style", "red apple",
    ]  # fmt: skip


def test_no_name_stands_for_two_emoji_of_which_it_is_ones_own(samples: dict[str, Sample]) -> None:
    """The package calls 🐶 "dog face" and "dog", which is 🐕."""
    own = Counter(data["en"].strip(":").replace("_", " ") for data in EMOJI_DATA.values())
    assert own["dog"]
    assert samples["noto-1f415"].captions[0] == "dog, noto style"
    assert samples["noto-1f436"].captions == ["dog face, noto style", "dog face"]


def test_without_a_folder_the_installed_styles_are_read() -> None:
    assert {sample.source for sample in READERS["emoji-full"](None, None)} == {
        source for _, source in VENDORS.values()
    }


def test_a_folder_without_pictures_is_refused_with_the_command_that_fills_it(
    tmp_path: Path,
) -> None:
    with pytest.raises(CorgiError, match=r"assets/\*\.webp.*npm pack @lobehub/fluent-emoji-3d"):
        list(read_full(tmp_path))
