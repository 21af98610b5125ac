"""The command line: ``weightloom serve | models | keys | fabricate | materialize | verify | inspect``."""

from __future__ import annotations

import signal
import sys

import typer
from rich.markup import escape
from weightloom_client import WeightloomClientError

from weightloom import __version__
from weightloom.cli import fabricate, inspect, keys, materialize, models, serve, verify
from weightloom.cli.output import console
from weightloom.errors import WeightloomError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Weave weights from a seed and a compact vector w.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"weightloom {__version__}")
        raise typer.Exit


@app.callback()
def _options(version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True)) -> None:
    pass


app.command("serve")(serve.serve_command())
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")
app.command("fabricate")(fabricate.fabricate)
app.command("materialize")(materialize.materialize)
app.command("verify")(verify.verify)
app.command("inspect")(inspect.inspect)


def main() -> None:
    """Run the command line; errors of the product go to stderr in one line each, with exit code 1."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))  # so that half-written files go
    try:
        app()
    except (WeightloomError, WeightloomClientError, OSError) as error:
        text = str(error).encode(errors="backslashreplace").decode()
        console(stderr=True).print(f"[bold red]error:[/] {escape(text)}")
        sys.exit(1)
