"""A package that is not ours: a hint method, known by its entry point alone."""
