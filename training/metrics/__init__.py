"""Metrics of pictures drawn in the style of a reference: each names its model and its definition."""
