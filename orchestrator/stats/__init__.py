"""From replicates to intervals, tests and verdicts: pure functions on arrays.

A study's unit of replication is the seed. What is not computed by scipy or statsmodels is checked against simulation
(`benchmarks/coverage.py`); docs/statistics.md says what to use when, and why.
"""

from .intervals import Interval, jackknife_bounds, mean_bounds, mean_interval, pair_interval, t_quantile

__all__ = ["Interval", "jackknife_bounds", "mean_bounds", "mean_interval", "pair_interval", "t_quantile"]
