"""Arrays of a dataset as a job that any process can do a part of: what workers are sent."""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from upath import UPath

from corgi_core.data.arrays import (
    Arrays,
    ArrayStore,
    MissingShard,
    Sharded,
    compute_missing,
    write_shard,
)
from corgi_core.errors import CorgiError
from corgi_core.io.markers import is_marked

LESS_GPU_MEMORY = (
    "end what else uses the GPU, let fewer workers share it (ray.gpus_per_worker: 1), or set "
    "inference_precision to bf16"
)
LESS_MEMORY = (
    "end what else uses the memory, let fewer workers share the machine (ray.cpus_per_worker), or "
    "make smaller shards (data.shard_size)"
)


@dataclass(frozen=True)
class ArrayJob(ABC):
    """How one kind of arrays is computed from a dataset, a shard at a time.

    Its fields name folders and settings. What it loads from there is left out when it is pickled,
    and every worker loads it once.

    Attributes:
        images: The dataset, or what else comes in shards.
        what: What progress is reported as.
        revision: Of the code, raised when it computes other arrays: then no stored shard counts.
        uses_device: Whether a GPU makes it faster.
    """

    images: Sharded
    what: ClassVar[str]
    revision: ClassVar[int]
    uses_device: ClassVar[bool] = False

    @property
    def weight(self) -> int:
        """How many embedded images an image takes as long as."""
        return 1

    @property
    @abstractmethod
    def about(self) -> Mapping[str, Any]:
        """What the arrays are: encoder, width, size and what else decides them beside the shard."""

    @property
    def spec(self) -> dict[str, Any]:
        """`about` and the code's revision, as `ArrayStore.spec` gives it back."""
        return {**self.about, "revision": self.revision}

    @abstractmethod
    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """Load what the job needs, and return the function from a shard's name to its arrays.

        The arrays depend on neither argument, but for a device's own rounding.

        Args:
            device: Where models compute: a device of torch, such as "cpu" or "cuda".
            threads: How many threads decode images, and on a CPU encode.
        """

    @property
    def folders(self) -> list[Path | UPath]:
        """The folders that it reads."""
        values = (getattr(self, each.name) for each in fields(self))
        found = (getattr(value, "folder", value) for value in values)
        return [value for value in found if isinstance(value, Path | UPath)]

    def run(self, folder: Path | UPath, device: str, threads: int) -> ArrayStore:
        """Compute in this process what is missing of the store in `folder`."""
        compute = self.explained(device, threads)
        return compute_missing(folder, self.images, self.spec, compute, self.what)

    def explained(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """`opened`, whose failures for want of memory are CorgiErrors that say what to set."""
        from corgi_core.out_of_memory import out_of_memory_explained

        remedy = LESS_GPU_MEMORY if device.startswith("cuda") else LESS_MEMORY
        with out_of_memory_explained(f"loading what computes {self.what}", remedy):
            compute = self.opened(device, threads)

        def computed(shard: str) -> Arrays:
            with out_of_memory_explained(f"computing {self.what} of shard {shard}", remedy):
                return compute(shard)

        return computed

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True)
class ShardWriter:
    """Computes shards of a job and writes them to a folder that `missing_shards` has prepared."""

    job: ArrayJob
    folder: Path | UPath

    def opened(self, device: str, threads: int) -> Callable[[MissingShard], MissingShard]:
        """Load what the job needs, and return the function that computes and writes one shard.

        Raises CorgiError where this machine does not see a folder.
        """
        for folder in self._unseen():
            raise CorgiError(
                f"the machine {platform.node()}, which is to compute {self.job.what}, does not see "
                f"{folder}",
                "let CORGI_DATA and CORGI_STORAGE name folders, or URLs such as s3://bucket/corgi, "
                "that all machines share",
            )
        compute = self.job.explained(device, threads)

        def write(shard: MissingShard) -> MissingShard:
            write_shard(self.folder, shard, compute(shard.name))
            return shard

        return write

    def _unseen(self) -> Iterator[Path | UPath]:
        yield from (folder for folder in self.job.folders if not folder.exists())
        if not is_marked(self.folder):
            yield self.folder
