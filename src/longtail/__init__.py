"""Long-tailed recognition: two stages, one pipeline, every method a row of params.yaml."""
