"""Where models are kept: a name, a seed and specs; never a weight."""

from weightloom.registry.records import ModelSummary, Registry, describe, summarize
from weightloom.registry.sqlite import REGISTRY_FILE, SqliteRegistry

__all__ = ["REGISTRY_FILE", "ModelSummary", "Registry", "SqliteRegistry", "describe", "summarize"]
