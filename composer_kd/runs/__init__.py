"""YAML -> Trainer: one run, or a lineage of runs that teach each other."""
