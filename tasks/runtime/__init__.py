"""The plumbing that every room shares: stage cache, store, errors, devices."""
