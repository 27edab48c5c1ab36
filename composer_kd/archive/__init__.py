"""What a run leaves for the next ones: written atomically, verified when read."""
