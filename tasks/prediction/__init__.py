"""Classifies new images with a published model."""
