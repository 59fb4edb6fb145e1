"""The demo: a script over what any operator types."""
