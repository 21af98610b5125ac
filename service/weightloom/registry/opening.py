"""Opens the registry that the settings name."""

from __future__ import annotations

from pathlib import Path

from weightloom.errors import Unavailable
from weightloom.registry.records import REGISTRY_FILE, Registry
from weightloom.registry.sqlite import SqliteRegistry

__all__ = ["open_registry"]


def open_registry(url: str | None, data_dir: Path) -> Registry:
    """The PostgreSQL database at ``url``, or the SQLite file in ``data_dir``, made where it is missing.

    Raises Unavailable, also where the packages for PostgreSQL are not installed.
    """
    if not url:
        return SqliteRegistry(data_dir / REGISTRY_FILE)
    try:
        from weightloom.registry.postgres import PostgresRegistry
    except ImportError as error:
        message = f"registry_url needs the packages for PostgreSQL: pip install 'weightloom[server,postgres]' ({error})"
        raise Unavailable(message, code="missing_extra") from error
    return PostgresRegistry(url, data_dir)
