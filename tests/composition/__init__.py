"""Tests of the room `gradhorizon.composition`."""
