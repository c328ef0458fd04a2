"""Experts: students trained on the real data, and the trajectories they leave."""
