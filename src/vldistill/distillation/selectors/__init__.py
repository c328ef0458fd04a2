"""Selectors that need the mathematics of distillation, one file each, registered beside selection/selectors/."""
