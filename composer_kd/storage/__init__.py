"""Atomic writes, JSON lines, locks, downloads, and functions that all ranks call together."""
