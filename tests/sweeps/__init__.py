"""Tests of the room `gradhorizon.sweeps`."""
