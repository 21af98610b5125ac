"""``python -m weightloom`` is the command ``weightloom``."""

from weightloom.cli import main

main()
