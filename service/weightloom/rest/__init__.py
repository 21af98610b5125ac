"""The REST front: every handler converts, makes one engine call, and converts back."""

from weightloom.rest.app import build_app

__all__ = ["build_app"]
