"""Captioned images: reading them from any source, decoding them once, preparing them for a tower."""
