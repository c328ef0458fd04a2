"""``python -m vldistill`` is ``vldistill``."""

from vldistill.cli import program

if __name__ == "__main__":
    program()
