"""ODRL policies, consent and the decisions that follow from them: a plain library (values in, values out)."""
