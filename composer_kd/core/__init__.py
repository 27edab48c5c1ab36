"""What every floor uses: errors, registries, options and schedules."""
