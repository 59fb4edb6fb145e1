"""Printed tables of what things cost: ``python -m tests.benchmarks [name ...]``."""

# The exit status of a benchmark that ran but missed a bar; any other that is not 0 means that something broke.
MISSED_BAR = 3
