"""Cordboard: a call-flow engine for number masking."""
