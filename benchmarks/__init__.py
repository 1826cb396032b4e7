"""Figures about the engine on this machine: printed, never asserted. `make bench`, or `python -m benchmarks -h`."""
