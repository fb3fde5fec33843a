"""Mirrors of the records: where a run can also be watched while it trains."""

from gradhorizon.mirrors.mirror import Mirror, NoMirror, RunInfo

__all__ = ["Mirror", "NoMirror", "RunInfo"]
