"""Python's own verbs: what ``import vldistill as vd`` offers, above the stages that do the work."""
