"""A configuration: composed, spelled, explained, and held against what reads it."""
