"""The DVC stages: each reads, calls one function, writes. `python -m longtail.stages.<stage> [ROW]`."""
