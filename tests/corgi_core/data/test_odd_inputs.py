"""Data as people bring them: read as others read them, or named; never lost without a word."""

from __future__ import annotations

import io
import json
import os
import tarfile
import unicodedata
from pathlib import Path

import pandas as pd
import pytest

from corgi_core.data.dataset import Dataset
from corgi_core.data.formats.conventions import captions_in, split_among, text_of
from corgi_core.data.ingest import ingest
from corgi_core.errors import CorgiError
from tests.helpers.made import SETTINGS, encoded, folder_with, noise, tar_with
from tests.helpers.whole import manifest_of, skipped_of

NAMES = ("a.png", "b.png", "c.png", "d.png")
CAPTIONS = {"a": "one", "b": "two", "c": "three", "d": "four"}
ROWS = [{"file_name": f"{key}.png", "text": text} for key, text in CAPTIONS.items()]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
CSV = "file_name,text\n" + "".join(f"{key}.png,{text}\n" for key, text in CAPTIONS.items())


def picture(name: str) -> bytes:
    return encoded(noise(name))


def ingested(folder: Path, files: dict[str, bytes | str], column: str | None = None) -> Dataset:
    """The dataset of a folder with four pictures and these files."""
    images = {name: picture(name) for name in NAMES}
    source = folder_with(folder / "in", {**images, **files})
    return ingest("imagefolder", str(source), folder / "raw", SETTINGS, 0, column)


def tarred(folder: Path, files: dict[str, bytes | str], column: str | None = None) -> Dataset:
    """The dataset of a tar with these members."""
    tar = tar_with(folder / "s.tar", files)
    return ingest("webdataset", str(tar), folder / "raw", SETTINGS, 0, column)


def captions_of(dataset: Dataset) -> dict[str, list[str] | None]:
    return dict(zip(manifest_of(dataset)["key"], manifest_of(dataset)["captions"], strict=True))


def parquet(rows: list[dict[str, str]]) -> bytes:
    file = io.BytesIO()
    pd.DataFrame(rows).to_parquet(file)
    return file.getvalue()


COCO = {
    "images": [{"id": n, "file_name": row["file_name"]} for n, row in enumerate(ROWS)],
    "annotations": [{"image_id": n, "caption": row["text"]} for n, row in enumerate(ROWS)],
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", CSV),
        ("METADATA.CSV", CSV),
        ("metadata.csv", CSV.replace(",", ";")),
        ("metadata.csv", CSV.replace("file_name,text", " file_name , Text ")),
        ("metadata.csv", CSV.encode("utf-16")),
        ("metadata.csv", "\ufeff" + CSV.replace("\n", "\r\n")),
        ("metadata.tsv", CSV.replace(",", "\t")),
        ("metadata.tsv", LINES),  # under a wrong suffix
        ("metadata.jsonl", LINES),
        ("Metadata.JSONL", LINES),
        ("metadata1000.jsonl", LINES),
        ("metadata.json1", LINES),
        ("metadata.ndjson", LINES),
        ("metadata.json", LINES),
        ("metadata.json", json.dumps(ROWS)),
        ("metadata.json", json.dumps({"data": ROWS})),
        ("metadata.json", json.dumps({name: list(CAPTIONS.values()) if name == "text" else
                                      [row["file_name"] for row in ROWS]
                                      for name in ("file_name", "text")})),
        ("metadata.json", json.dumps({f"{key}.png": text for key, text in CAPTIONS.items()})),
        ("metadata.json", json.dumps({key: [text] for key, text in CAPTIONS.items()})),
        ("metadata.parquet", parquet(ROWS)),
        ("captions.jsonl", LINES),
        ("captions.csv", CSV.replace("file_name,text", "image,caption")),
        ("captions.txt", CSV.replace("file_name,text", "image,caption")),  # as Flickr8k has it
        ("sub/captions_val2017.json", json.dumps(COCO)),  # as COCO has it
        ("metadata.jsonl", LINES.replace('"text"', '"TEXT"')),
        ("metadata.jsonl", LINES.replace('"text"', '"prompt"')),
        ("metadata.jsonl", LINES.replace(".png", "")),
        ("metadata.jsonl", LINES.replace('"file_name": "', '"file_name": "./')),
        ("sub/metadata.jsonl", LINES),  # names that leave one image only
    ],
)  # fmt: skip
def test_captions_under_every_usual_name_and_layout(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    dataset = ingested(tmp_path, {name: content})
    assert captions_of(dataset) == {key: [text] for key, text in CAPTIONS.items()}
    assert skipped_of(dataset).empty


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("txt", "{}"), ("TXT", "{}"), ("caption", "{}"), ("png.txt", "{}"),
        ("json", '{{"caption": "{}"}}'), ("json", '["{}"]'), ("json", '"{}"'),
        ("json", '{{"captions": [{{"raw": "{}", "tokens": ["x"]}}]}}'),
    ],
)  # fmt: skip
def test_captions_in_a_file_beside_each_image(tmp_path: Path, suffix: str, content: str) -> None:
    beside = {f"{key}.{suffix}": content.format(text) for key, text in CAPTIONS.items()}
    dataset = ingested(tmp_path, beside)
    assert captions_of(dataset) == {key: [text] for key, text in CAPTIONS.items()}
    assert skipped_of(dataset).empty


@pytest.mark.parametrize("written", ["absolute", "backslash", "decomposed"])
def test_names_of_images_however_they_are_written(tmp_path: Path, written: str) -> None:
    image = "train/\u00e9t\u00e9.png"
    named = {
        "absolute": str(tmp_path / "in" / image),
        "backslash": image.replace("/", "\\"),
        "decomposed": unicodedata.normalize("NFD", image),
    }[written]
    row = json.dumps({"file_name": named, "text": "summer"})
    dataset = ingested(tmp_path, {image: picture("e"), "metadata.jsonl": row})
    assert captions_of(dataset)["train/\u00e9t\u00e9"] == ["summer"]


@pytest.mark.parametrize(
    ("row", "read"),
    [
        ("b.png,two, or 2", None),  # a comma without quotes
        ('b.png,"a 12" ruler', None),  # a quote within quotes
        ('b.png,"never closed', None),
        ('b.png,"closed\nby the next line"', ["closed\nby the next line"]),
        ('b.png,"say ""two"""', ['say "two"']),
        ("b.png", None),
        ("b.png,", [""]),
        ("b.png,nan", None),
        ("b.png,None", None),
        ("b.png,inf", None),
        ("b.png,\"['two', '2']\"", ["two", "2"]),
        ("b.png,\"{'raw': 'two'}\"", ["two"]),
        ("b.png,\"{'en': 'two'}\"", None),
    ],
)
def test_a_bad_row_of_csv_costs_that_row_alone(
    tmp_path: Path, row: str, read: list[str] | None
) -> None:
    dataset = ingested(tmp_path, {"metadata.csv": CSV.replace("b.png,two", row)})
    whole = {key: [text] for key, text in CAPTIONS.items()}
    assert captions_of(dataset) == whole | {"b": read}
    silent = read is not None or row in ("b.png", "b.png,nan", "b.png,None", "b.png,inf")
    reported = skipped_of(dataset)
    assert reported["path"].tolist() == ([] if silent else ["metadata.csv, line 3"])


def test_a_quote_that_is_never_closed_does_not_take_the_rows_after_it(tmp_path: Path) -> None:
    """Not even where a later row closes it, so that all between them would be one caption."""
    table = CSV.replace("a.png,one", 'a.png,"one').replace("c.png,three", 'c.png,three"')
    dataset = ingested(tmp_path, {"metadata.csv": table})
    assert captions_of(dataset)["b"] == ["two"]
    assert captions_of(dataset)["d"] == ["four"]
    assert "metadata.csv, line 2" in skipped_of(dataset)["path"].tolist()


def test_a_table_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    table = "file_name,text\n" + "".join(f"{name},a thing, on white\n" for name in NAMES)
    with pytest.raises(CorgiError, match=r"metadata\.csv, line 2: bad row, 3 cells in 2 columns"):
        ingested(tmp_path, {"metadata.csv": table})


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (None, None), ("a cat", ["a cat"]), ("", [""]), (float("nan"), None), ("nan", None),
        (float("inf"), None), (float("-inf"), None), (7, ["7"]), (True, None), (1.5, None),
        (["x", None, "y"], ["x", "y"]), ([["x", "y"], ["z"]], ["x", "y", "z"]), ([], None),
        ([float("nan"), "x"], ["x"]), ({"raw": "a cat"}, ["a cat"]), ({"Text": "x"}, ["x"]),
        ([{"raw": "a cat"}, {"raw": "a dog"}], ["a cat", "a dog"]), ({"en": "a cat"}, None),
        ({}, None), (b"bytes", ["bytes"]), ("[laughs]", ["[laughs]"]), ("{a}", ["{a}"]),
        ("infinity, noto style", ["infinity, noto style"]), ("[" * 5000 + "]" * 5000, ...),
    ],
)  # fmt: skip
def test_captions_of_every_kind_of_value(value: object, texts: list[str] | None) -> None:
    found = captions_in(value)
    assert found.texts == ([value] if texts is ... else texts)
    never = [bad for text in found.texts or [] for bad in ("nan", "inf", "{'") if text == bad]
    assert not never
    faulty = value is True or value in (1.5, {"en": "a cat"}, {})
    assert (found.fault is not None) == (faulty and value != [])


def test_halves_of_surrogate_pairs(tmp_path: Path) -> None:
    rows = [
        '{"file_name": "a.png", "text": "an apple \\ud83d"}',
        '{"file_name": "b.png", "text": "whole \\ud83c\\udf4e"}',
        '{"file_name": "gone\\ud83d.png", "text": "x"}',
    ]
    dataset = ingested(tmp_path, {"metadata.jsonl": "\n".join(rows)})
    captions = captions_of(dataset)
    assert captions["a"] == ["an apple \ufffd"]  # which the gate drops, with a reason
    assert captions["b"] == ["whole \U0001f34e"]
    assert skipped_of(dataset)["detail"].tolist() == ["gone\ufffd.png"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("at 4.42.48\u202fPM", "at 4_42_48\u202fPM"),  # every screenshot of macOS
        ("v\u00a013", "v\u00a013"),
        ("\u732b\u3000\u3068\u72ac", "\u732b\u3000\u3068\u72ac"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        ("a\nb", "a_b-7e18f737"),
        ("t\tc", "t_c-9a67cbe6"),
        ("bell\a", "bell_-"),
        (os.fsdecode(b"caf\xe9"), "caf_-"),
    ],
)
def test_no_name_refuses_the_whole(tmp_path: Path, name: str, key: str) -> None:
    dataset = ingested(tmp_path, {f"{name}.png": picture("odd")})
    assert len(dataset) == 5
    (odd,) = set(manifest_of(dataset)["key"]) - set(CAPTIONS)
    assert odd.startswith(key)
    assert dict(dataset.images(dataset.shards[-1]))[dataset.rows(dataset.shards[-1])["key"].iloc[0]]
    assert {key for shard in dataset.shards for key, _ in dataset.images(shard)} == {
        *CAPTIONS, odd,
    }  # fmt: skip


def test_every_file_is_read_or_named(tmp_path: Path) -> None:
    suffixes = ("jfif", "jpe", "mpo", "dib", "pgm", "pnm", "ico", "tga", "apng", "jp2", "JPEG")
    files: dict[str, bytes | str] = {f"{n}.{suffix}": picture(str(n))
                                     for n, suffix in enumerate(suffixes)}  # fmt: skip
    others = {"p.svg": "<svg/>", "f": "no suffix", "notes.txt": "mine", "numbers.csv": "1,2\n"}
    hidden = {".git/x.png": "", ".venv/lib/i.png": "", "__MACOSX/x.png": "", "s/.x.png": ""}
    dataset = ingested(tmp_path, files | others | hidden)
    assert len(dataset) == len(NAMES) + len(suffixes)
    skipped = skipped_of(dataset)
    assert dict(zip(skipped["path"], skipped["reason"], strict=True)) == {
        "p.svg": "not an image (.svg)",
        "f": "not an image (no suffix)",
        "notes.txt": "captions without an image of that name",
        "numbers.csv": "a table that is not called metadata",
        ".git": "hidden",
        ".venv": "hidden",
        "__MACOSX": "hidden",
        "s/.x.png": "hidden",
    }


def test_links_are_followed_once(tmp_path: Path) -> None:
    folder_with(tmp_path / "elsewhere", {"cat.png": picture("cat")})
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cats").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "circle").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self.png").symlink_to("self.png")
    (tmp_path / "in" / "gone.png").symlink_to("/nowhere.png")
    (tmp_path / "in" / "one.png").symlink_to(tmp_path / "elsewhere" / "cat.png")
    dataset = ingested(tmp_path, {})
    assert sorted(manifest_of(dataset)["key"]) == ["a", "again/cat", "b", "c", "d", "one"]
    skipped = skipped_of(dataset).set_index("path")["reason"].to_dict()
    assert skipped.pop("self.png").startswith("cannot be read")
    assert skipped == {
        "circle": "a link to a folder that is read anyway",
        "cats": "a link to a folder that is read anyway",
        "gone.png": "a link that leads nowhere",
    }


def test_what_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir, read_bytes = os.scandir, Path.read_bytes

    def scan(folder: Path) -> object:
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    def read(path: Path) -> bytes:
        if path.name == "b.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    folder_with(tmp_path / "in", {"closed/x.png": picture("x"), **{n: picture(n) for n in NAMES}})
    monkeypatch.setattr("corgi_core.data.formats.walk.os.scandir", scan)
    monkeypatch.setattr(Path, "read_bytes", read)
    dataset = ingest("imagefolder", str(tmp_path / "in"), tmp_path / "raw", SETTINGS, 0)
    assert sorted(manifest_of(dataset)["key"]) == ["a", "c", "d"]
    assert skipped_of(dataset).to_dict("records") == [
        {"path": "closed", "reason": "a folder that cannot be read", "detail": "Permission denied"},
        {"path": "b.png", "reason": "cannot be read", "detail": "Permission denied"},
    ]


def test_the_present_folder_is_read_and_an_empty_path_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_with(tmp_path, {**{name: picture(name) for name in NAMES}, ".git/x.png": picture("x")})
    monkeypatch.chdir(tmp_path)
    dataset = ingest("imagefolder", ".", tmp_path / "data" / "raw", SETTINGS, 0)
    assert len(dataset) == 4
    assert set(manifest_of(dataset)["source"]) == {tmp_path.name}
    for empty in ("", "  "):
        with pytest.raises(CorgiError, match="path is empty"):
            ingest("imagefolder", empty, tmp_path / "data" / "raw", SETTINGS, 0)


def test_a_caption_column_is_used_also_with_a_limit(tmp_path: Path) -> None:
    from dataclasses import replace

    lines = LINES.replace('"text"', '"headline"')
    folder_with(tmp_path / "in", {**{n: picture(n) for n in NAMES}, "metadata.jsonl": lines})
    settings = replace(SETTINGS, limit=3)
    dataset = ingest("imagefolder", str(tmp_path / "in"), tmp_path / "r", settings, 0, "headline")
    assert len(dataset) == 3
    assert captions_of(dataset).items() <= {k: [text] for k, text in CAPTIONS.items()}.items()


J = {key: picture(key) for key in "abcdef"}
UNSORTED = {**{f"{k}.png": J[k] for k in "abcd"}, **{f"{k}.txt": CAPTIONS[k] for k in "abcd"}}
APART = {f"i/{k}": v for k, v in UNSORTED.items() if k.endswith("png")} | {
    f"t/{k}": v for k, v in UNSORTED.items() if k.endswith("txt")
}
DOTS = {f"22.{name}": content for name, content in sorted(UNSORTED.items())}
VERSIONS = {name.replace(".", ".v1."): content for name, content in sorted(UNSORTED.items())}
PARTS = {name.replace("png", "input.png").replace("txt", "outputs.txt"): content
         for name, content in sorted(UNSORTED.items())}  # fmt: skip
RECORDS = {name.replace("txt", "json"): json.dumps({"TEXT": c}) if "txt" in name else c
           for name, c in sorted(UNSORTED.items())}  # fmt: skip


@pytest.mark.parametrize(
    ("members", "prefix"),
    [
        (UNSORTED, ""),
        (dict(reversed(UNSORTED.items())), ""),
        (APART, "i/"),
        (DOTS, "22_"),
        (VERSIONS, ""),
        (PARTS, ""),
        (RECORDS, ""),
        ({k.upper(): v for k, v in UNSORTED.items()}, None),
    ],
)
def test_tars_of_every_order_and_naming(
    tmp_path: Path, members: dict[str, bytes | str], prefix: str | None
) -> None:
    dataset = tarred(tmp_path, members)
    wanted = {f"{prefix}{key}" if prefix is not None else key.upper(): [text]
              for key, text in CAPTIONS.items()}  # fmt: skip
    assert captions_of(dataset) == wanted
    images = {key: image for shard in dataset.shards for key, image in dataset.images(shard)}
    assert images == {key: J[key[-1].lower()] for key in wanted}
    assert skipped_of(dataset).empty


def test_two_pictures_of_a_sample_share_its_caption_and_its_group(tmp_path: Path) -> None:
    members = {}
    for key in "abc":
        members |= {f"{key}.left.png": J[key], f"{key}.right.png": picture(f"{key} right"),
                    f"{key}.txt": CAPTIONS[key]}  # fmt: skip
    dataset = tarred(tmp_path, members)
    assert captions_of(dataset) == {f"{key}_{side}": [CAPTIONS[key]]
                                    for key in "abc" for side in ("left", "right")}  # fmt: skip
    assert manifest_of(dataset).groupby("group")["split"].nunique().tolist() == [1, 1, 1]


def packed(path: Path, members: list[tuple[str, bytes | None, str]]) -> Path:
    """A tar of files, and of links to the third item where the content is None."""
    with tarfile.open(path, "w") as tar:
        for name, content, target in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type = tarfile.LNKTYPE if "/" not in target else tarfile.SYMTYPE
                member.linkname = target
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "second", [("a.png", J["b"], ""), ("a.jpg", J["b"], ""), ("a.txt", b"again", "")]
)
def test_a_key_that_reappears_in_a_tar_is_refused(
    tmp_path: Path, second: tuple[str, bytes, str]
) -> None:
    members = [("a.png", J["a"], ""), ("a.txt", b"x", ""), ("b.png", J["b"], ""), second]
    tar = packed(tmp_path / "s.tar", members)
    with pytest.raises(CorgiError, match=r"s\.tar holds the key 'a' twice"):
        ingest("webdataset", str(tar), tmp_path / "raw", SETTINGS, 0)


def test_links_in_a_tar_are_read_or_named(tmp_path: Path) -> None:
    members = [
        ("a.png", J["a"], ""), ("b.png", None, "a.png"), ("b.txt", b"the same", ""),
        ("c.png", None, "../elsewhere/x.png"), ("d.png", J["d"], ""), ("e.png", None, "./e.png"),
    ]  # fmt: skip
    tar = packed(tmp_path / "s.tar", members)
    dataset = ingest("webdataset", str(tar), tmp_path / "raw", SETTINGS, 0)
    images = {key: image for shard in dataset.shards for key, image in dataset.images(shard)}
    assert images == {"a": J["a"], "b": J["a"], "d": J["d"]}
    assert captions_of(dataset)["b"] == ["the same"]
    assert skipped_of(dataset).set_index("path")["reason"].to_dict() == {
        "s.tar: c.png": "a link out of the tar",
        "s.tar: e.png": "a link out of the tar",
    }


def test_what_else_is_in_tars_and_beside_them_is_named(tmp_path: Path) -> None:
    tar_with(tmp_path / "in" / "s.tar", {"a.png": J["a"], "a.seg.png": J["b"], "x.txt": "lost",
                                         "._b.png": b"a Mac's", "b.png": J["c"]})  # fmt: skip
    (tmp_path / "in" / "s_stats.json").write_text("{}")
    dataset = ingest("webdataset", str(tmp_path / "in"), tmp_path / "raw", SETTINGS, 0)
    assert sorted(manifest_of(dataset)["key"]) == ["a", "b"]
    assert skipped_of(dataset).set_index("path")["reason"].to_dict() == {
        "s_stats.json": "not a tar",
        "s.tar: ._b.png": "hidden",
        "s.tar: a.seg.png": "another image of its sample",
        "s.tar: x": "a sample without an image",
    }


def test_shards_of_the_same_names_in_several_folders(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        members = {f"{n:03d}.png": picture(f"{number}{n}") for n in range(3)}
        tar_with(tmp_path / "in" / split / "00000.tar", members)
    splits = {"train": "train", "val": "validation", "test": "test"}
    wanted = {f"{f}/{n:03d}": split for f, split in splits.items() for n in range(3)}
    for pattern in ("", "*/*.tar", "{train,val,test}/00000.tar", "{train,val,test}"):
        path = str(tmp_path / "in" / pattern)
        manifest = manifest_of(ingest("webdataset", path, tmp_path / "raw", SETTINGS, 0))
        assert dict(zip(manifest["key"], manifest["split"], strict=True)) == wanted
        assert set(manifest["source"]) == {"in"}  # not the split


def test_patterns_that_cannot_be_read_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pattern in ("{a", "a}", "train-{000..002.tar"):
        with pytest.raises(CorgiError, match=r"brace|no tar shards"):
            ingest("webdataset", str(tmp_path / pattern), tmp_path / "raw", SETTINGS, 0)
    tar_with(tmp_path / "home" / "s.tar", {"a.png": J["a"], "b.png": J["b"]})
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert len(ingest("webdataset", "~/s.tar", tmp_path / "raw", SETTINGS, 0)) == 2
    tar_with(tmp_path / "{odd" / "s.tar", {"a.png": J["a"], "b.png": J["b"]})
    assert len(ingest("webdataset", str(tmp_path / "{odd"), tmp_path / "raw", SETTINGS, 0)) == 2


@pytest.mark.parametrize("cut", [700, 5 * 512 + 100, 3 * 512])
@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_cut_tars_are_refused(tmp_path: Path, cut: int, suffix: str) -> None:
    import bz2
    import gzip
    import lzma

    pack = {"tar": bytes, "tar.gz": gzip.compress, "tar.bz2": bz2.compress,
            "tar.xz": lzma.compress}[suffix]  # fmt: skip
    tar_with(tmp_path / "whole.tar", {f"{key}.png": J[key] for key in "abcd"})
    plain = (tmp_path / "whole.tar").read_bytes()
    whole = pack(plain)
    (tmp_path / f"s.{suffix}").write_bytes(whole)
    dataset = ingest("webdataset", str(tmp_path / f"s.{suffix}"), tmp_path / "raw", SETTINGS, 0)
    assert len(dataset) == 4
    torn = whole[:cut] if suffix == "tar" else whole[: len(whole) * 2 // 3]
    (tmp_path / f"s.{suffix}").write_bytes(torn)
    with pytest.raises(CorgiError, match="is not a whole tar file"):
        ingest("webdataset", str(tmp_path / f"s.{suffix}"), tmp_path / "raw", SETTINGS, 0)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("TRAIN", "train"), ("train2017", "train"), ("training_set", "train"),
        ("val", "validation"), ("val2017", "validation"), ("validation", "validation"),
        ("dev", "validation"), ("test-images", "test"), ("testimony", None), ("trains", None),
        ("valley", None), ("device", None), ("photos", None),
    ],
)  # fmt: skip
def test_folders_that_say_their_split(name: str, split: str | None) -> None:
    assert split_among(["photos", name]) == split


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_in_every_unicode_encoding(encoding: str) -> None:
    assert text_of("caf\u00e9 \U0001f34e".encode(encoding)) == "caf\u00e9 \U0001f34e"
    assert text_of(b"caf\xe9") == "caf\ufffd"
