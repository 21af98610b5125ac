"""``weightloom inspect``: what a file or a model holds, as a table and as pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from weightloom.cli import options
from weightloom.cli.output import console
from weightloom.cli.plot import Matrix, plot_matrices
from weightloom.cli.stored import PLAIN_DTYPES, StoredFile
from weightloom.fabric import DType, ModelSpec, VirtualFile
from weightloom.fabric.kinds import BaseTensorSpec
from weightloom.fabric.sections import TensorSection
from weightloom.registry import describe, summarize
from weightloom.requests import SPEC_METADATA

__all__ = ["inspect"]

W = dict[str, Any]  # arrays by tensor
Target = Annotated[str, typer.Argument(metavar="FILE|MODEL", help="A safetensors file, a spec's JSON, or a model.")]
Plot = Annotated[Path | None, typer.Option(help="Draw each matrix, its histogram and singular values into this PNG.")]


def inspect(
    target: Target,
    plot: Plot = None,
    w: options.WFile = None,
    url: options.Url = None,
    data_dir: options.DataDir = options.DEFAULT_DATA_DIR,
) -> None:
    """Show shapes, sizes, seeds and degrees of freedom of a file or a model.

    A model is plotted for the w's in --w, or for w's drawn at random.
    """
    out = console()
    if target.endswith(".safetensors"):
        stored = StoredFile(Path(target))
        _show_file(out, stored)
        matrices = _stored_matrices(stored) if plot else []
    else:
        spec, given = _model_and_w(target, url, data_dir)
        _show_model(out, spec)
        matrices = _made_matrices(spec, options.read_w(w) if w else given) if plot else []
    if plot:
        plot_matrices(matrices, plot, title=target)
        out.print(f"{escape(str(plot))}: tensors drawn: {len(matrices)}")


def _model_and_w(target: str, url: str | None, data_dir: Path) -> tuple[ModelSpec, W]:
    """The model, and the w's where ``target`` is a request that brings them."""
    if target.endswith(".json"):
        return options.spec_and_w_from_file(Path(target))
    if url:
        return options.spec_from_server(target, url), {}
    with options.local_engine(data_dir) as engine:
        return engine.registry.load(engine.registry.find(target)), {}


def _show_model(out: Console, spec: ModelSpec) -> None:
    facts = describe(summarize(spec, ""), spec)
    sizes = ", ".join(f"{size:,} bytes as {dtype}" for dtype, size in facts["data_bytes"].items())
    out.print(f"[bold]{spec.name}[/]  seed {spec.seed}  {facts['generator']}\ndigest {spec.digest}\n{sizes}")
    out.print(escape(spec.description))
    table = Table("tensor", "shape", "kind", "l", "r", "hidden", "scale", "elements", "degrees of freedom", box=None)
    for tensor in spec.tensors:
        table.add_row(escape(tensor.name), str(list(tensor.shape)), tensor.kind, *_parameters(tensor))
    out.print(table)


def _parameters(tensor: BaseTensorSpec) -> list[str]:
    fields: dict[str, Any] = tensor.model_dump()
    given = [str(fields.get(name, "")) for name in ("l", "r", "hidden_dim", "scale")]
    return [*given, f"{tensor.numel:,}", f"{tensor.degrees_of_freedom:,}"]


def _show_file(out: Console, stored: StoredFile) -> None:
    metadata = {key: value for key, value in stored.metadata.items() if key != SPEC_METADATA}
    out.print(f"{stored.size:,} bytes, {len(stored.entries)} tensors")
    for key, value in metadata.items():
        out.print(escape(f"{key}: {value}"))
    table = Table("tensor", "dtype", "shape", "elements", "bytes", box=None)
    for entry in stored.entries.values():
        size, shape = f"{entry.end - entry.begin:,}", str(list(entry.shape))
        table.add_row(escape(entry.name), entry.dtype, shape, f"{int(np.prod(entry.shape)):,}", size)
    out.print(table)
    if SPEC_METADATA in stored.metadata:  # a bundle: the file says of which model its w's are
        _show_model(out, ModelSpec.parse(stored.metadata[SPEC_METADATA]))


def _stored_matrices(stored: StoredFile) -> list[Matrix]:
    drawable = {DType.BF16, *PLAIN_DTYPES}
    entries = [entry for entry in stored.entries.values() if entry.dtype in drawable and entry.end > entry.begin]
    return [Matrix(entry.name, entry.shape, partial(stored.elements, entry)) for entry in entries]


def _made_matrices(spec: ModelSpec, w: W) -> list[Matrix]:
    file = VirtualFile(spec, _random_w(spec) | w)
    return [
        Matrix(section.part.spec.name, section.shape, partial(_made, file, section.start))
        for section in file.layout.sections
        if isinstance(section, TensorSection)
    ]


def _made(file: VirtualFile, at: int, start: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.frombuffer(file.read(at + 4 * start, 4 * count), np.float32)


def _random_w(spec: ModelSpec) -> W:
    random = np.random.default_rng(spec.seed)
    return {t.name: random.standard_normal(t.w_length) for t in spec.tensors if t.w_length is not None}
