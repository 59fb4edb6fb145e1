"""Contract negotiation and transfer of the Dataspace Protocol 2025-1: a plain library (values in, values out)."""
