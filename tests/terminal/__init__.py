"""Tests of the room `gradhorizon.terminal`."""
