"""A split in, augmented batches out."""
