"""Tests of the library calls on modules of anybody's."""
