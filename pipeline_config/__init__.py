"""What can be chosen: typed recipes, data sets and settings, with their YAML beside the types."""
