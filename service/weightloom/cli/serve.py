"""``weightloom serve``: one option for each setting, generated from ``Settings``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Optional

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

__all__ = ["default_of", "serve_command"]


def serve_command() -> Callable[..., None]:
    """The command, or one that says what is missing where the server's packages are not installed."""
    try:
        from weightloom.settings import Settings
    except ImportError:
        return _missing

    def serve(**options: Any) -> None:
        """Serve over REST and gRPC until SIGTERM or Ctrl-C; running streams are finished first."""
        from weightloom.main import serve as run

        try:
            settings = Settings(**{name: value for name, value in options.items() if value is not None})
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            if not wrong["loc"]:  # settings that do not go together
                raise typer.BadParameter(wrong["msg"]) from error
            name = str(wrong["loc"][0])
            value = repr(wrong["input"]) if Settings.model_fields[name].repr else "(not shown)"
            raise typer.BadParameter(f"{name} (WEIGHTLOOM_{name.upper()}) = {value}: {wrong['msg']}") from error
        run(settings)

    parameters = [_parameter(name, field) for name, field in Settings.model_fields.items()]
    serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    serve.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return serve


def _missing() -> None:
    """Serve over REST and gRPC (needs the server's packages: pip install 'weightloom[server]')."""
    raise typer.BadParameter("the server's packages are not installed: pip install 'weightloom[server]'")


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    option = typer.Option(
        None,
        "--" + name.replace("_", "-"),
        envvar=f"WEIGHTLOOM_{name.upper()}",
        help=f"{field.description} Default: {default_of(field)}.",
    )
    annotation: Any = Optional.__getitem__(field.annotation)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation)


def default_of(field: FieldInfo) -> str:
    """A setting's default, as people read it."""
    if isinstance(field.json_schema_extra, dict) and "default_text" in field.json_schema_extra:
        return str(field.json_schema_extra["default_text"])
    if field.default is None:
        return "by the machine"
    return "number of cores" if field.default_factory else str(field.default)
