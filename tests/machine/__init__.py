"""Tests of the room `gradhorizon.machine`."""
