"""What is there, kept sound and kept small: scrubbing and collecting garbage."""
