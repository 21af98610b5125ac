"""Where models are kept: a name, a seed and specs; never a weight. Beside them the factors that some import."""

from weightloom.registry.blobs import FactorBlobs
from weightloom.registry.records import ModelSummary, Registry, describe, summarize
from weightloom.registry.sqlite import REGISTRY_FILE, SqliteRegistry

__all__ = ["REGISTRY_FILE", "FactorBlobs", "ModelSummary", "Registry", "SqliteRegistry", "describe", "summarize"]
