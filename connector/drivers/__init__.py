"""Background threads that carry out what the database says is due."""
