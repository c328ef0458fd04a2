"""Trackers: TensorBoard, Weights & Biases and MLflow receive what a run writes to its ``metrics.jsonl``."""
