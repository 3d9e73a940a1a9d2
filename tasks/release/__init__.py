"""What leaves the house: bundle, registry, report."""
