"""What is recorded through a training besides its history: the gradients, and the loss around the weights."""

from .record import Record

__all__ = ["Record"]
