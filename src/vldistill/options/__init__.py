"""From words and files to a configuration with nothing left open."""
