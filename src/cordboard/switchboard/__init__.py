"""The one place where calls are answered and allocations made."""
