"""Relative input gradient against lag, at initialisation and after training, of one model on one task.

Usage: ``python analysis/gradient_profile.py RUNS…``; edit the selection to taste.
"""

from __future__ import annotations
