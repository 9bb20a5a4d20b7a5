"""Hostile files, values, paths and faults: each case ends in success or in an error that stylear.errors documents."""
