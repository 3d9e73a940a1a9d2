"""Judgement: metrics and figures."""
