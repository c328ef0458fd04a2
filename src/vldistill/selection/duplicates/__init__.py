"""The detectors of duplicates, one file each."""
