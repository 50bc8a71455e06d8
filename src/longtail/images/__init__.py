"""Labeled images and splits: what every room after the sources stands on."""
