"""Figures about the engine on this machine, printed and never asserted: `python -m benchmarks -h`."""
