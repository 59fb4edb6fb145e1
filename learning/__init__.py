"""Training plans, jobs, rounds and secure aggregation: a plain library; torch only in learning.training."""
