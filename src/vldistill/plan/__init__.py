"""What a command would do: checks, disk, time."""
