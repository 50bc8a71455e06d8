"""May a new model serve? The nightly comparison with the one that does, and checks of the images."""
