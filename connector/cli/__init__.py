"""The orchard command line."""
