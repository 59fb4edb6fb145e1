"""Datasets that a participant offers: their files, their publication, and what is known of them locally."""
