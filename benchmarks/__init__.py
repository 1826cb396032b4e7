"""Figures about the engine on this machine, reported and never asserted: `python -m benchmarks -h`."""
