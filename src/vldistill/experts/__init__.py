"""Experts: students trained on the real data, and their trajectories."""
