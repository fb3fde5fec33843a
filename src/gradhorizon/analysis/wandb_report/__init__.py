"""The W&B report, built by code from what runs log."""
