"""The same engine and fronts on Ray Serve: ``serve run weightloom.ray:app``, ``serve deploy deploy/ray/serve.yaml``.

Ray places, counts, balances and restarts; nothing here does. docs/ray.md says how to run it and what it needs.
"""

from weightloom.ray.application import Arguments, app
from weightloom.ray.rpc import add_grpc

__all__ = ["Arguments", "add_grpc", "app"]
