"""What these numbers cannot tell."""

from __future__ import annotations

__all__ = ["Refused"]


class Refused(ValueError):
    """A question that the numbers at hand cannot answer; the message is one sentence for people and says why."""
