"""Secure aggregation: the seeded CNF-shared tree (SCT)."""
