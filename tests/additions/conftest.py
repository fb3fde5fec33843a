"""What lies in ``files`` is collected in the copy that it is laid over, not here."""

collect_ignore = ["files"]
