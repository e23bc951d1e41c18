"""From replicates to intervals, tests and verdicts: pure functions on arrays.

A study's unit of replication is the seed. What is not computed by scipy or statsmodels is checked against simulation
(`benchmarks/coverage.py`); docs/statistics.md says what to use when, and why.
"""

from .association import Association, Concordance, associate
from .intervals import Interval, jackknife_bounds, mean_bounds, mean_interval, pair_interval, t_quantile
from .matched_loss import Adjusted, MatchedLoss, match_loss
from .power import Curve, Power, detectable_effect, equivalence_power, needed_seeds, plan_seeds, sd_bounds, t_test_power
from .refusal import Refused
from .selection import FewerSeeds, WinnersCurse, fewer_seeds, winner_coverage, winners_curse
from .variance_components import Component, Components, split_variance

__all__ = [
    "Adjusted",
    "Association",
    "Component",
    "Components",
    "Concordance",
    "Curve",
    "FewerSeeds",
    "Interval",
    "MatchedLoss",
    "Power",
    "Refused",
    "WinnersCurse",
    "associate",
    "detectable_effect",
    "equivalence_power",
    "fewer_seeds",
    "jackknife_bounds",
    "match_loss",
    "mean_bounds",
    "mean_interval",
    "needed_seeds",
    "pair_interval",
    "plan_seeds",
    "sd_bounds",
    "split_variance",
    "t_quantile",
    "t_test_power",
    "winner_coverage",
    "winners_curse",
]
