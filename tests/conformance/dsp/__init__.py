"""The Dataspace Protocol's conformance kit against this connector; see README.md."""
