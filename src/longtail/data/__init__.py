"""Images in, a long-tailed split out."""
