"""Relational storage: SQLite and PostgreSQL."""
