"""``python -m gradhorizon`` is ``gradhorizon``."""

from gradhorizon.application import command

command()
