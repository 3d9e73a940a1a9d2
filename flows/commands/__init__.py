"""The commands of `idxflow`, a module for each group of them."""
