"""Checks of modules before they are measured."""
