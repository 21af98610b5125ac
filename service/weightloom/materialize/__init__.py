"""Batch work: a table of models and w's in, a file for each row out; it can be killed at any time and goes on."""

from weightloom.materialize.models import Models
from weightloom.materialize.report import Tally
from weightloom.materialize.run import Job, materialize

__all__ = ["Job", "Models", "Tally", "materialize"]
