"""Read what other codes published: distilled sets and expert trajectories. Nothing is ever unpickled freely."""
