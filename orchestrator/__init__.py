"""A distributed job orchestrator on Ray for multi-seed robustness studies."""

from .sweep import PairRule, Sweep, crossed, same_seed, same_setting, vary

__all__ = ["PairRule", "Sweep", "crossed", "same_seed", "same_setting", "vary"]
