"""What this machine does in a second: the works of ``vldistill bench``, and how they are measured."""
