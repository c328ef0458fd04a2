"""A sweep of methods, budgets, settings, towers and seeds, cell by cell, and its table."""
