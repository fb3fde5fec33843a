"""Every shipped file of a group of the configuration, found by its place; templates are none."""

from __future__ import annotations

from gradhorizon.machine.installed import CONF_DIR

TEMPLATE = "external"


def shipped(group: str) -> list[str]:
    """Names of a group's files that can be chosen without a word more about what they build.

    Args:
        group: a folder of ``conf``.
    """
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml") if path.stem != TEMPLATE)
