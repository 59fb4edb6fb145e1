"""Sources of learner data."""
