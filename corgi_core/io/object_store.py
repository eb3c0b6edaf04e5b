"""Object stores such as S3: reading, writing and listing in few requests, and their errors.

An upload is whole or absent, so a single object needs no temporary name: it is written to a local
file, and uploaded from there when that is done. There are no folders to make and nothing can be
renamed; see `folders` for how several objects are published as one.

Credentials and the endpoint are the libraries' own: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_ENDPOINT_URL, AWS_PROFILE and the like in the environment of the process, a file
~/.aws/credentials, or the role of the machine. Every process that reads or writes needs them: on a
Ray cluster, they are set on each node before `ray start`, as Ray's workers have the environment of
their node. No credentials are sent from one process to another.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec.config
from upath import UPath

from corgi_core.errors import CorgiError

AHEAD, GAP = 32 << 20, 1 << 16  # bytes: of ranges fetched at once, and between two of them
PART = 50 << 20  # bytes; larger files are uploaded in parts of at least that
S3 = ("s3", "s3a")
# Defaults of every S3 file system of this process. A listing is never remembered: another process
# may have written since. A person's own configuration of fsspec takes precedence.
fsspec.config.conf["s3"] = {
    "use_listings_cache": False,
    "config_kwargs": {
        "connect_timeout": 5,
        "read_timeout": 60,
        "retries": {"mode": "standard", "max_attempts": 3},
    },
} | fsspec.config.conf.get("s3", {})

_REFUSED = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError",
                   "ProfileNotFound", "TokenRetrievalError")  # fmt: skip
_NO_ANSWER = ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError",
              "ConnectionClosedError", "ProxyConnectionError", "SSLError", "HTTPClientError",
              "FSTimeoutError")  # fmt: skip
_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) of this process, and of "
    "every node of a cluster"
)


def is_url(text: str) -> bool:
    """Whether a setting names an object store, such as s3://bucket/corgi, and no local path."""
    return "://" in text and not text.startswith(("file://", "local://"))


def content_of(path: UPath) -> bytes:
    """A whole object in one request; FileNotFoundError where there is none."""
    with store_errors(path):
        content: bytes = path.fs.cat_file(path.path, start=0)
        return content


def contents_of(folder: UPath, names: Sequence[str]) -> list[bytes]:
    """Several whole objects below `folder`, in their order; one request each, many at once."""
    if not names:
        return []
    with store_errors(folder):
        paths = [(folder / name).path for name in names]
        found: list[bytes | Exception] = folder.fs.cat_ranges(paths, 0, None)
        for content in found:
            if isinstance(content, Exception):
                raise content
        return [content for content in found if isinstance(content, bytes)]


def ranges_of(path: UPath, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Ranges of an object, each a start and a size in bytes, in their order.

    They are fetched `AHEAD` bytes at a time; those with less than `GAP` bytes between them by one
    request.
    """
    batch: list[tuple[int, int]] = []
    for number, wanted in enumerate(ranges, start=1):
        batch.append(wanted)
        if sum(size for _, size in batch) >= AHEAD or number == len(ranges):
            yield from _fetched(path, batch)
            batch = []


def _fetched(path: UPath, ranges: list[tuple[int, int]]) -> Iterator[bytes]:
    spans: list[list[int]] = []  # start and end of each request
    for start, size in sorted(ranges):
        if spans and start - spans[-1][1] < GAP:
            spans[-1][1] = max(spans[-1][1], start + size)
        else:
            spans.append([start, start + size])
    starts, ends = ([span[side] for span in spans] for side in (0, 1))
    with store_errors(path):
        contents = path.fs.cat_ranges([path.path] * len(spans), starts, ends)
        for content in contents:
            if isinstance(content, Exception):
                raise content
    for start, size in ranges:
        number = bisect_right(starts, start) - 1
        offset = start - starts[number]
        yield contents[number][offset : offset + size]


def remove_object(path: UPath) -> None:
    """Remove an object; no error where there is none."""
    with store_errors(path), suppress(FileNotFoundError):
        path.fs.rm_file(path.path)


def upload(local: Path, path: UPath) -> None:
    """Copy a local file to an object, which is there as a whole or as it was before.

    A large one goes up in parts. Where that fails they are discarded; where the process is killed,
    nobody sees them, and the bucket's lifecycle rules should remove them.
    """
    with store_errors(path):
        parts = {"chunksize": PART} if path.protocol in S3 else {}
        path.fs.put_file(str(local), path.path, **parts)


def upload_all(folder: Path, target: UPath, names: Sequence[str]) -> None:
    """Copy files of a local folder to objects below `target`, several at once."""
    if names:
        with store_errors(target):
            target.fs.put(
                [str(folder / name) for name in names], [(target / name).path for name in names]
            )


def download_all(source: UPath, folder: Path, names: Sequence[str]) -> None:
    """Copy objects below `source` to files of a local folder, several at once."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if names:
        with store_errors(source):
            source.fs.get(
                [(source / name).path for name in names], [str(folder / name) for name in names]
            )


def entries_of(folder: UPath) -> list[tuple[str, bool]]:
    """What is directly in `folder`: names, and whether each is a folder; one request per 1,000.

    Raises NotADirectoryError where `folder` is an object.
    """
    with store_errors(folder):
        try:
            found = folder.fs.ls(folder.path, detail=True)
        except FileNotFoundError as error:
            if _code_of(error) == "NoSuchBucket":
                raise
            return []
    root = _key(folder.path)
    names = [(_key(entry["name"]), entry["type"]) for entry in found]
    if names == [(root, "file")]:
        raise NotADirectoryError(str(folder))
    return [
        (name.removeprefix(f"{root}/"), kind == "directory") for name, kind in names if name != root
    ]


def names_below(folder: UPath) -> list[str]:
    """Every object below `folder`, relative to it, sorted; one request for each 1,000."""
    return [name for name, _ in details_below(folder)]


def details_below(folder: UPath) -> list[tuple[str, dict[str, Any]]]:
    """As `names_below`, each with what the store says of it: "size" and others."""
    with store_errors(folder):
        found: dict[str, dict[str, Any]] = folder.fs.find(folder.path, detail=True)
    root = f"{_key(folder.path)}/"
    named = ((_key(name), about) for name, about in found.items())
    return sorted(
        ((name.removeprefix(root), about) for name, about in named if name.startswith(root)),
        key=lambda pair: pair[0],
    )


def copy_objects(pairs: Sequence[tuple[UPath, UPath]]) -> None:
    """Copy objects within the store, several at once, without their bytes coming here."""
    if pairs:
        sources, targets = ([path.path for path in side] for side in zip(*pairs, strict=True))
        with store_errors(pairs[0][1]):
            pairs[0][0].fs.copy(sources, targets)


def remove_below(folder: UPath) -> None:
    """Remove every object below `folder`; no error where there is none."""
    with store_errors(folder):
        if found := folder.fs.find(folder.path):
            folder.fs.rm(found)
        elif folder.fs.isdir(folder.path):  # a folder without objects, where the store has those
            folder.fs.rm(folder.path, recursive=True)


def check_reachable(path: UPath) -> None:
    """Raise CorgiError where the store does not answer, refuses, or has no such bucket.

    One request; said at the start of a command, and not after an hour of it.
    """
    with store_errors(path):
        fs = path.fs
        if path.protocol in S3:
            bucket, _, key = path.path.partition("/")
            fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1)


@contextmanager
def store_errors(path: Path | UPath) -> Iterator[None]:
    """Turn what a store's library raises for a reason that a person can mend into a CorgiError.

    That an object is not there stays a FileNotFoundError: what that means is for the caller to say.
    """
    try:
        yield
    except Exception as error:
        if (explained := explained_error(error, str(path))) is not None:
            raise explained from error
        raise


def explained_error(error: BaseException, path: str | None = None) -> CorgiError | None:
    """What a person can do about an error of an object store's library; None for any other error.

    Args:
        error: The error, whose causes count too.
        path: What was read or written, where it is known.
    """
    where = path or "the object store"
    code, kind = _code_of(error), {type(cause).__name__ for cause in _causes(error)}
    if isinstance(error, ImportError) and "s3fs" in str(error):
        return CorgiError(
            f"{where} is on S3, and s3fs, which reads it, is not installed",
            "pip install 'corgi[s3]'",
        )
    if kind.intersection(_NO_CREDENTIALS):
        return CorgiError(f"there are no credentials for {where}", _CREDENTIALS)
    if code in _REFUSED:
        return CorgiError(f"the credentials for {where} are refused ({code})", _CREDENTIALS)
    if code in ("AccessDenied", "AllAccessDisabled", "403"):
        return CorgiError(
            f"access to {where} is denied",
            "use credentials that may read, write, list and delete there, or choose another "
            "CORGI_STORAGE or CORGI_DATA",
        )
    if code == "NoSuchBucket":
        return CorgiError(
            f"{where}: there is no such bucket", "create the bucket, or correct its name"
        )
    if kind.intersection(_NO_ANSWER):
        return CorgiError(
            f"{where}: the store does not answer ({_first_line(error)})",
            "check AWS_ENDPOINT_URL and the network, and run it again: what is done stays",
        )
    if code is not None and not isinstance(error, FileNotFoundError):
        return CorgiError(
            f"{where}: the store answers {code} ({_first_line(error)})",
            "run it again: what is done stays",
        )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _code_of(error: BaseException) -> str | None:
    """The code in the store's answer; None where it did not answer, or the error is not its."""
    for cause in _causes(error):
        if response := getattr(cause, "response", None):
            code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
            return None if code is None else str(code)
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _key(path: str) -> str:
    return path.strip("/")
