"""The claims of the README as programs, and what they measured."""
