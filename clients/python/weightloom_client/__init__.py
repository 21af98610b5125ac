"""The Python client of weightloom: models and whole files over REST. Needs urllib3 and nothing of the server."""

from weightloom_client.client import Client
from weightloom_client.errors import ServerError, ServerUnreachable, WeightloomClientError

__all__ = ["Client", "ServerError", "ServerUnreachable", "WeightloomClientError"]
