"""All targets by name."""

from __future__ import annotations

from fuzz import files, messages

TARGETS = {**messages.TARGETS, **files.TARGETS}
