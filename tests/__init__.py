"""Tests, and the run-time type checker that they run under: an int is a float, as in mypy and in YAML."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
