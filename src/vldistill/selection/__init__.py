"""Coresets: real pairs chosen by a selector. Each selector is one file that registers itself.

A selector gets the training pairs as :class:`Candidates` and returns the rows of the captions it chooses, at most one
per image. A coreset can be evaluated (``--set kcenter:100``), start a distillation (``distill.start kcenter``), or be
written as a set (``vldistill select``).
"""
