"""Distillation: the maths of matching, what is learned, the outer loop, and the methods."""
