"""Where models are kept: a name, a seed and specs; never a weight. Beside them the factors that some import."""

from weightloom.registry.blobs import FactorBlobs
from weightloom.registry.opening import open_registry
from weightloom.registry.records import REGISTRY_FILE, ModelSummary, Registry, describe, summarize
from weightloom.registry.sqlite import SqliteRegistry

__all__ = [
    "REGISTRY_FILE",
    "FactorBlobs",
    "ModelSummary",
    "Registry",
    "SqliteRegistry",
    "describe",
    "open_registry",
    "summarize",
]
