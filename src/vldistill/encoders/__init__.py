"""Towers by name, adapters, the dual encoder, and features on disk."""
