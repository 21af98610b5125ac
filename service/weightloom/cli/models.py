"""``weightloom models create | list | show | delete``: in the local registry, or on a server with --url."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from weightloom.cli.options import DEFAULT_DATA_DIR, DataDir, Url, client_of, local_engine
from weightloom.cli.output import console
from weightloom.fabric import ModelSpec
from weightloom.registry import describe

__all__ = ["app"]

ALL = 1 << 31

app = typer.Typer(help="Register, list, show and delete models.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name or digest.")]


@app.command()
def create(
    spec: Annotated[Path, typer.Argument(help="JSON: name, seed and tensors.")],
    url: Url = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Register a model; registering the very same one again is no error."""
    body = spec.read_bytes()
    if url:
        with client_of(url) as client:
            reply = client.create_model(body)
    else:
        parsed = ModelSpec.parse(body)
        with local_engine(data_dir, create=True) as engine:
            reply = describe(engine.registry.create(parsed)[0], parsed)
    console().print(f"[bold]{reply['name']}[/]  {reply['digest']}\n{escape(reply['description'])}")


@app.command("list")
def list_models(url: Url = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """List the registered models by name."""
    if url:
        with client_of(url) as client:
            models = list(client.list_models())
    else:
        with local_engine(data_dir) as engine:
            models = [asdict(summary) for summary in engine.registry.page("", ALL)]
    table = Table("name", "tensors", "elements", "numbers in w", "created", "digest", box=None, header_style="bold")
    for model in models:
        counts = (f"{model[key]:,}" for key in ("tensors", "numel", "w_numbers"))
        table.add_row(model["name"], *counts, model["created_at"][:19], model["digest"][:12])
    console().print(table)


@app.command()
def show(name: Name, url: Url = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show a model as JSON: its spec, sizes and degrees of freedom."""
    typer.echo(json.dumps(model_reply(name, url, data_dir), indent=2, ensure_ascii=False))


@app.command()
def delete(name: Name, url: Url = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Forget a model."""
    if url:
        with client_of(url) as client:
            client.delete_model(name)
    else:
        with local_engine(data_dir) as engine:
            engine.registry.delete(name)


def model_reply(name: str, url: str | None, data_dir: Path) -> dict[str, Any]:
    """What a server or the local registry says of a model. Raises NotFound, ServerError."""
    if url:
        with client_of(url) as client:
            return client.get_model(name)
    with local_engine(data_dir) as engine:
        summary = engine.registry.find(name)
        return describe(summary, engine.registry.load(summary))
