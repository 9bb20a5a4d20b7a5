"""Hostile files, values and paths: every case ends in success or in an error that stylear.errors documents."""
