"""Files that are whole or not there: records, tensors, arrays, checkpoints, locks."""
