"""Regularisers: what is done to the examples, the gradient or the weights of a step, besides the optimizer's own."""

from .regulariser import Regulariser

__all__ = ["Regulariser"]
