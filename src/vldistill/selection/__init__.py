"""Coresets: real pairs chosen by a selector, one file each. A selector registers itself; nothing else is edited.

A selector sees the training pairs as :class:`Candidates` and gives the rows of the captions it chooses, at most one of
each image. Its choice is usable as a set (``--set kcenter:100``), as a start (``distill.start kcenter``), and on its
own (``vldistill select``).
"""
