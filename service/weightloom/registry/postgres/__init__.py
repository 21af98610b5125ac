"""Models in a PostgreSQL database that several servers share. Needs the extra ``postgres``."""

from weightloom.registry.postgres.registry import PostgresRegistry

__all__ = ["PostgresRegistry"]
