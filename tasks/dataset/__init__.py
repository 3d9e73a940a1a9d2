"""Rows: profile, expectations, Parquet, split, normalization."""
