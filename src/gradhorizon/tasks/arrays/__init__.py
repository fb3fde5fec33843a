"""Data of the user's own: read from a file, held to a form, split, standardised."""
