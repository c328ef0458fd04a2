"""The distilled set: the artefact, its record and its card."""

from vldistill.distilled.distilled_set import CORESET, STANDARDISATION, Caption, DistilledSet, one_line

__all__ = ["CORESET", "STANDARDISATION", "Caption", "DistilledSet", "one_line"]
