"""``python -m gradhorizon`` is ``gradhorizon``."""

from gradhorizon.application import command

if __name__ == "__main__":
    command()
