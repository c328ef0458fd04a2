"""Readers turn a data source into a Collection; each is one function in one file of this folder.

To add one, put a file beside ``karpathy.py`` with a function ``read(source) -> Collection`` under
``@reader("name", matches=...)``, or with ``@path_reader`` where a source is a path with options (``folder.py``). The
registry imports every file of this folder, so nothing else has to be edited.
"""
