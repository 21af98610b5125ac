"""``weightloom fabricate``: weave a file here, or fetch it from a server."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from weightloom_client.progress import Progress, progress_bar
from weightloom_client.protocol import Options

from weightloom.cli import options
from weightloom.cli.output import console, whole_file
from weightloom.cli.stopping import until_stopped
from weightloom.engine import Engine
from weightloom.requests import FabricateRequest

__all__ = ["fabricate"]

Output = Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write.")]


def fabricate(
    output: Output,
    request: options.Request = None,
    model: options.ModelOption = None,
    w: options.WFile = None,
    dtype: options.Dtype = None,
    tensors: options.Tensors = None,
    rows: options.Rows = None,
    url: options.Url = None,
    data_dir: options.DataDir = options.DEFAULT_DATA_DIR,
) -> None:
    """Weave the tensors of a model for a w into a safetensors file: the same bits here and on any server."""
    wanted = options.read_request(request, model, w, dtype, tensors, rows)
    with progress_bar(output.name) as progress:
        if url:
            with options.client_of(url) as client, whole_file(output) as file:
                part = Options(dtype=wanted.dtype, tensors=wanted.tensors, rows=wanted.rows)
                client.fabricate_to(file, wanted.model, wanted.w, progress=progress, **part)
        else:
            with options.engine_for(wanted, data_dir) as engine:
                asyncio.run(until_stopped(_weave(engine, wanted, output, progress)))
    console(stderr=True).print(f"{escape(str(output))}: {output.stat().st_size:,} bytes")


async def _weave(engine: Engine, request: FabricateRequest, output: Path, progress: Progress) -> None:
    fabrication, done = await engine.fabricate(request), 0
    with whole_file(output) as file:
        async with aclosing(fabrication.tiles()) as tiles:
            async for tile in tiles:
                file.write(tile)
                done += len(tile)
                progress(done, fabrication.size)
