"""What goes over the wire and what follows from it, without any I/O: requests, transfers, retries, files."""

from weightloom_client.protocol.retries import RetryPolicy, Tries
from weightloom_client.protocol.transfer import Broken, Head, Part, Transfer
from weightloom_client.protocol.wanted import AnyModel, Options, W, Wanted

__all__ = ["AnyModel", "Broken", "Head", "Options", "Part", "RetryPolicy", "Transfer", "Tries", "W", "Wanted"]
