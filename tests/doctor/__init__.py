"""Tests of the room `gradhorizon.doctor`."""
