"""``weightloom keys create | list | revoke``: who may call a server, in its registry."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from weightloom.cli.options import DEFAULT_DATA_DIR, DataDir, local_engine
from weightloom.cli.output import console
from weightloom.registry.keys import Scope, new_key

__all__ = ["app"]

app = typer.Typer(help="API keys: make, list and revoke them.", no_args_is_help=True)
MAX_NAME, MAX_DAYS = 200, 36_500
Limit = Annotated[
    int | None, typer.Option(min=1, max=(1 << 63) - 1, help="At most so many in a minute, for each serving process.")
]


def _for_people(name: str) -> str:
    """A line that a list can show."""
    if not (name.strip() and name.isprintable() and len(name) <= MAX_NAME):
        raise typer.BadParameter(f"1 to {MAX_NAME} printable characters are wanted")
    return name


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is; for people.", callback=_for_people)],
    scope: Annotated[list[Scope], typer.Option(help="What it may do; may be repeated.")] = [Scope.FABRICATE],  # noqa: B006
    days: Annotated[float | None, typer.Option(min=0.001, max=MAX_DAYS, help="It expires after so many days.")] = None,
    requests_per_minute: Limit = None,
    bytes_per_minute: Limit = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Make a key. Its token is shown once and kept nowhere; a server that runs knows it within a second."""
    lifetime = None if days is None else timedelta(days=days)
    key, token = new_key(name, scope, lifetime, requests_per_minute, bytes_per_minute)
    with local_engine(data_dir, create=True) as engine:
        engine.registry.keys.add(key)
    console(stderr=True).print(f"key [bold]{key.id}[/] for {escape(repr(name))}; its token, shown this once:")
    typer.echo(token)


@app.command("list")
def list_keys(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """List all keys, the oldest first; never their secrets."""
    with local_engine(data_dir) as engine:
        keys = engine.registry.keys.all()
    table = Table("id", "name", "scopes", "made", "expires", "revoked", "requests/min", "bytes/min", box=None)
    for key in keys:
        times = (key.created_at, key.expires_at, key.revoked_at)
        limits = (key.requests_per_minute, key.bytes_per_minute)
        cells = ["" if value is None else f"{value}" for value in (*times, *limits)]
        table.add_row(key.id, escape(key.name), " ".join(sorted(key.scopes)), *cells)
    console().print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As the list shows it.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Take a key back: servers that run refuse it within a second."""
    with local_engine(data_dir) as engine:
        engine.registry.keys.revoke(key_id)
