"""Cells and layers of other people, and what is proved of them."""
