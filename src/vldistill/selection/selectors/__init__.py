"""The selectors, one file each: a function of candidates that returns the rows of the captions it chooses."""
