"""Tests of the room `gradhorizon.runs`."""
