"""Hydra's way to gradhorizon's own sweeper: ``hydra/sweeper=gradhorizon``."""
