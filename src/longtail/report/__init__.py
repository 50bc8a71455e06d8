"""The table of results, and where its numbers come from."""
