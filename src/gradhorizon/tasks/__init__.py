"""Task protocols, one a file."""
