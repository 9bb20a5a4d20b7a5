"""Stands in for the package comfy."""
