"""Bytes that we did not write: the IDX format, sources, download, structural checks."""
