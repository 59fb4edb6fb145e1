"""Pages in a real browser: one running school and one browser for all of them."""
