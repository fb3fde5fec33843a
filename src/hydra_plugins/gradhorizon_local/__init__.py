"""Hydra's way to gradhorizon's own launcher: ``hydra/launcher=local``."""
