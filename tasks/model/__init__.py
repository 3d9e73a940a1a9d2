"""Learning: the network and its training."""
