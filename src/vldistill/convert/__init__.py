"""Export a source, coreset or distilled set as WebDataset shards, a Hugging Face dataset, a folder or a csv."""
