"""Tests of the room `gradhorizon.training`."""
