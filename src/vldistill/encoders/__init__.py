"""vldistill."""
