"""The stages as functions: each reads files of the stage before and writes its own into the run folder."""
