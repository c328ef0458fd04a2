"""Help that keeps the lines of its description, for commands whose description shows a file."""

from __future__ import annotations

import argparse

from jsonargparse import DefaultHelpFormatter


class KeptLines(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """jsonargparse's help, with the description as it is written."""
