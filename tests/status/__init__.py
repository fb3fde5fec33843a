"""Tests of the room `gradhorizon.status`."""
