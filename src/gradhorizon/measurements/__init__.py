"""Measurements, one quantity a file."""
