"""Answers: what a published model says about images that it has never seen."""
