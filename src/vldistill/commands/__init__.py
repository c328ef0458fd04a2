"""The commands, one file each: words in, exit code out."""
