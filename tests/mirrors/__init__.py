"""Tests of the mirrors."""
