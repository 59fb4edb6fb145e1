"""Local training: the only place that imports torch; runs inside the sandbox."""
