"""Tests of the recurrences."""
