"""The pipelines, each readable as the diagram of itself, and the command line."""
