"""The tables of `corgi config check`: what each model of a preset needs of a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Column, Table

if TYPE_CHECKING:
    from corgi_core.sizes import CaptionStorage, ModelSize, PixelStorage


def memory_table(sizes: Sequence[ModelSize]) -> Table:
    """Models down: parameters, and what they need of a GPU's memory."""
    names = ("parameters", "weights", "training", "at once", "activations", "together")
    table = _table("Memory of a worker on its GPU in GiB, computed", names)
    for size in sizes:
        if size.parameters is None:
            table.add_row(size.model, *["–"] * len(names))
            continue
        before, after = (size.weights, size.state), (size.activations, size.memory)
        table.add_row(
            size.model, f"{size.parameters:,}", *map(_gibibytes, before),
            str(size.microbatch), *map(_gibibytes, after),
        )  # fmt: skip
    return table


def time_table(sizes: Sequence[ModelSize], device_flops: float) -> Table:
    """Models down: operations, and what they take at that rate."""
    from corgi_core.sizes import time_needed

    names = ("batch", "TFLOP a step", "steps", "samples/s", "days")
    table = _table("Time, computed", names)
    for size in sizes:
        if size.parameters is None:
            table.add_row(size.model, *["–"] * len(names))
            continue
        time = time_needed(size, device_flops)
        steps, days = (f"{size.steps:,}", _number(time.days)) if size.steps else ("–", "–")
        table.add_row(
            size.model, f"{size.samples:,}", _number(size.flops / 1e12), steps,
            f"{time.samples_per_second:,.0f}", days,
        )  # fmt: skip
    return table


def notes(sizes: Sequence[ModelSize], device_flops: float) -> Iterator[str]:
    """What the tables rest on and leave out, and how long `corgi run` trains."""
    from corgi_core.sizes import time_needed

    yield from (f"{size.model}: {size.remark}" for size in sizes if size.remark)
    stages = [size for size in sizes if size.stage is not None]
    if len(stages) > 1:
        most = _gibibytes(max(size.memory for size in stages))
        together = sum(time_needed(size, device_flops).days for size in stages)
        yield (
            f"The cascade's stages learn one after the other: {most} GiB of a GPU at most, "
            f"{_number(together)} days together."
        )
    for size in sizes:
        if size.beside and size.parameters is not None:
            main = next(each for each in sizes if each.model == size.beside)
            memory = main.memory + size.weights + max(0, size.activations - main.activations)
            together = sum(time_needed(each, device_flops).days for each in (main, size))
            yield (
                f"The {main.model} and its text encoder together: {_gibibytes(memory)} GiB of a "
                f"GPU, {_number(together)} days."
            )
    workers, gpus = sizes[0].workers, sizes[0].gpus
    yield (
        f"Computed from torch's operators on tensors without data, for {workers} worker(s) on "
        f"{gpus:g} GPU(s) that do {device_flops / 1e12:g} TFLOP/s each (--device-flops); nothing "
        "was measured."
    )
    trained = [size for size in sizes if size.trainings and size.parameters is not None]
    if trained:
        days = sum(size.trainings * time_needed(size, device_flops).days for size in trained)
        names = ", ".join(f"{size.trainings} × {size.model}" for size in trained if size.trained)
        yield f"corgi run trains {names}: {_number(days)} days."


def storage_note(storage: CaptionStorage) -> str:
    """What is stored of captions for the text encoder, on average and for the dataset."""
    of = f"{storage.sample:,} of the dataset's" if storage.sample else "captions like COCO's"
    stored = "its tokens are stored" if storage.features == "cached" else "it is stored itself"
    count = storage.captions or 1_000_000
    note = (
        f"A caption has {storage.tokens:.1f} tokens on average (of {of}); {stored}: "
        f"{storage.each:,.0f} bytes, {_size(count * storage.each)} for {count:,} captions."
    )
    if storage.features == "online":
        note += f" Its tokens would be {storage.cached:,.0f} bytes."
    return note


def pixel_note(storage: PixelStorage) -> str:
    """What is stored of images for trainings, of one and of the dataset."""
    stored = "its pixels are stored" if storage.source == "stored" else "its position is stored"
    count = storage.images or 1_000_000
    note = (
        f"An image has {storage.size} × {storage.size} pixels; {stored}: {storage.each:,} bytes, "
        f"{_size(count * storage.each)} for {count:,} images."
    )
    if storage.source == "online":
        note += (
            f" It is decoded whenever it is needed; its pixels would be {storage.stored:,} bytes, "
            f"{_size(count * storage.stored)}."
        )
    return note


def _table(title: str, names: Sequence[str]) -> Table:
    numbers = [Column(name, justify="right", no_wrap=True) for name in names]
    return Table(
        Column("model", overflow="fold"), *numbers,  # a narrow terminal wraps names, not numbers
        title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True,
    )  # fmt: skip


def _size(count: float) -> str:
    """Bytes in the largest unit of which there is one at least."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{_number(count / unit)} {name}"
    return f"{_number(count / 1e3)} kB"


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:,.2f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
