"""Runs of W&B that know no account, no network and no home of the user's."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb

from tests.wandb_stub import API_KEY, WandbStub


@pytest.fixture
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


@pytest.fixture
def stub(no_account: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbStub]:
    """A server of one's own, with a login; wandb's service is started anew, since it keeps the address."""
    del no_account
    wandb.teardown()
    with WandbStub() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)
        yield server
    wandb.teardown()


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the project itself has warned of, and worse."""
    own = [record for record in caplog.records if record.name.startswith("gradhorizon")]
    return [record.getMessage() for record in own if record.levelno >= logging.WARNING]
