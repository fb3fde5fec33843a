"""Tests of what a run leaves on disk."""
