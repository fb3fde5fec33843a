"""A run on disk: its identity, its folder, its owners, its members, and how it ended."""
