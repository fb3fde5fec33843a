"""Tests of the room `gradhorizon.late_measurement`."""
