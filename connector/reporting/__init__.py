"""What a finished job leaves behind: the model, its report as JSON and as a page, and the tables of the terminal."""
