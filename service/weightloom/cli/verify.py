"""``weightloom verify``: does a file hold the bits that its model and w define?"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, NoReturn

import numpy as np
import typer
from rich.markup import escape
from weightloom_client.progress import progress_bar

from weightloom.cli import options
from weightloom.cli.output import console
from weightloom.cli.stored import StoredFile, decode
from weightloom.errors import InvalidInput
from weightloom.fabric import VirtualFile
from weightloom.fabric.dtypes import parse_dtype
from weightloom.fabric.safetensors import Entry
from weightloom.fabric.sections import TensorSection

__all__ = ["verify"]

SAMPLE_BYTES = 1 << 14
FULL_BYTES = 1 << 20


@dataclass(frozen=True)
class Window:
    """Bytes ``begin`` ... ``end - 1`` of a tensor, counted from its first byte; whole elements."""

    section: TensorSection
    entry: Entry
    begin: int
    end: int


def verify(
    file: Annotated[Path, typer.Argument(help="The safetensors file to check.", show_default=False)],
    request: options.Request = None,
    model: options.ModelOption = None,
    w: options.WFile = None,
    tensors: options.Tensors = None,
    rows: options.Rows = None,
    samples: Annotated[int, typer.Option(min=1, help="Windows of 16 KiB to recompute, spread over the file.")] = 64,
    full: Annotated[bool, typer.Option("--full", help="Recompute every element.")] = False,
    data_dir: options.DataDir = options.DEFAULT_DATA_DIR,
) -> None:
    """Recompute sampled or all elements of FILE from model and w: bit-equal, or where it differs (exit code 1)."""
    stored = StoredFile(file)
    wanted = options.read_request(request, model, w, tensors=tensors, rows=rows)
    dtypes = {entry.dtype for entry in stored.entries.values()}
    if len(dtypes) != 1:
        raise InvalidInput.at(
            str(file), f"dtypes {sorted(dtypes)}", "one dtype for all tensors, as fabricated files have"
        )
    wanted = replace(wanted, dtype=parse_dtype(dtypes.pop()))
    with options.engine_for(wanted, data_dir) as engine:
        made = engine.plan(
            replace(wanted, offset=0, length=0)
        ).file  # no bytes at once: a file of any size can be checked
    pairs = _match(made, stored)
    total = sum(section.size for section, _ in pairs)
    full = full or total <= samples * SAMPLE_BYTES
    checked = _compare_all(made, stored, _every_window(pairs) if full else _sampled_windows(pairs, samples))
    part = f"all {total:,} bytes" if full else f"{checked:,} of {total:,} bytes sampled (--full for all)"
    console().print(f"[bold green]bit-equal[/]: {part}; tensors: {len(pairs)}")


def _match(made: VirtualFile, stored: StoredFile) -> list[tuple[TensorSection, Entry]]:
    """Each tensor of the file that should be, with its place in the file that is."""
    pairs = []
    if extra := sorted(stored.entries.keys() - {part.spec.name for part in made.layout.parts}):
        _differ(f"tensor {extra[0]!r} is in the file, and not in what model and w give")
    for section in made.layout.sections:
        if isinstance(section, TensorSection):
            entry = stored.entries.get(section.part.spec.name)
            if entry is None or entry.shape != section.shape:
                found = "no such tensor" if entry is None else f"shape {list(entry.shape)}"
                _differ(f"tensor {section.part.spec.name!r}: {found}, expected shape {list(section.shape)}")
            pairs.append((section, entry))
    return pairs


def _every_window(pairs: list[tuple[TensorSection, Entry]]) -> Iterator[Window]:
    for section, entry in pairs:
        size = entry.end - entry.begin
        for begin in range(0, size, FULL_BYTES):
            yield Window(section, entry, begin, min(size, begin + FULL_BYTES))


def _sampled_windows(pairs: list[tuple[TensorSection, Entry]], samples: int) -> Iterator[Window]:
    """The first and last bytes of every tensor, and ``samples`` windows at random places, more in larger tensors.

    Windows lie on a grid, and none is taken twice.
    """
    sizes = [entry.end - entry.begin for _, entry in pairs]
    chosen = {(i, place) for i, size in enumerate(sizes) for place in (0, (size - 1) // SAMPLE_BYTES)}
    for i in random.choices(range(len(pairs)), sizes, k=samples):
        chosen.add((i, random.randrange(-(-sizes[i] // SAMPLE_BYTES))))
    for i, place in sorted(chosen):
        begin = place * SAMPLE_BYTES
        yield Window(*pairs[i], begin, min(sizes[i], begin + SAMPLE_BYTES))


def _compare_all(made: VirtualFile, stored: StoredFile, windows: Iterator[Window]) -> int:
    """Bytes compared. Ends the program at the first difference."""
    checked = 0
    with ThreadPoolExecutor(os.cpu_count()) as workers, progress_bar("verify") as progress:
        while batch := list(islice(windows, 64)):
            for window, differs_at in zip(
                batch, workers.map(lambda one: _compare(made, stored, one), batch), strict=True
            ):
                if differs_at is not None:
                    _differ(_describe(made, stored, window, differs_at))
                checked += window.end - window.begin
                progress(checked, made.size)
    return checked


def _compare(made: VirtualFile, stored: StoredFile, window: Window) -> int | None:
    """The first byte of the tensor that differs, or None."""
    expected = np.empty(window.end - window.begin, np.uint8)
    made.read_into(window.section.start + window.begin, expected)
    found = stored.raw(window.entry.begin + window.begin, window.entry.begin + window.end)
    return None if np.array_equal(expected, found) else window.begin + int(np.argmax(expected != found))


def _describe(made: VirtualFile, stored: StoredFile, window: Window, byte: int) -> str:
    section, entry, item = window.section, window.entry, window.section.dtype.itemsize
    number = byte // item
    expected = np.frombuffer(made.read(section.start + number * item, item), np.uint8)
    found = stored.raw(entry.begin + number * item, entry.begin + (number + 1) * item)
    index = [int(i) for i in np.unravel_index(number, entry.shape)] if entry.shape else []
    return (
        f"tensor {entry.name!r} differs at {index} (byte {entry.begin + number * item} of the file): "
        f"file {_show(found, entry.dtype)}, model and w give {_show(expected, entry.dtype)}"
    )


def _show(raw: np.ndarray[tuple[int], np.dtype[np.uint8]], dtype: str) -> str:
    return f"{decode(raw, dtype)[0]!s} (bits {raw[::-1].tobytes().hex()})"


def _differ(message: str) -> NoReturn:
    console().print(f"[bold red]not equal[/]: {escape(message)}")
    raise typer.Exit(1)
