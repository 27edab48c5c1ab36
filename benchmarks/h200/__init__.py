"""What a GPU does for this package, on a machine that may have no network: ../h200.sh runs it phase by phase."""
