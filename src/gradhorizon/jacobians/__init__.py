"""Jacobians over time: one step, products, exponents."""
