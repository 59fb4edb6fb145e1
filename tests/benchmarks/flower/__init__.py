"""Flower's SecAgg+ beside ours; ``secaggplus.py`` runs in a throwaway environment of its own."""
