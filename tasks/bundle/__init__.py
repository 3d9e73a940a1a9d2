"""Everything about one model in one folder that needs nothing else."""
