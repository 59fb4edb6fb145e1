"""Calls to other participants."""
