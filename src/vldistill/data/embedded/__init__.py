"""Pairs that are given by their vectors: files of arrays, their tables, and what of them can be used."""
