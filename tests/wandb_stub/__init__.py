"""A W&B server on the loopback, for tests: it keeps what it is sent, and can be told to fail."""

from tests.wandb_stub.runs import StubRun
from tests.wandb_stub.server import API_KEY, WandbStub

__all__ = ["API_KEY", "StubRun", "WandbStub"]
