"""Files, locks and ranks: atomic writes, JSON lines, remote directories and what all ranks agree on."""
