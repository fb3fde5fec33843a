"""The marker of oracle tests."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "oracle(reason): compares a quantity with a closed form or a slow twin; takes no fixtures, and is run again "
        "on falsified rows by test_conf_measurement.py, which it must notice",
    )
