"""From replicates to intervals, tests and verdicts: pure functions on arrays.

A study's unit of replication is the seed. What is not computed by scipy is checked against simulation
(`benchmarks/coverage.py`); docs/statistics.md says what to use when, and why.
"""

from .association import Association, Concordance, associate
from .comparisons import (
    Comparison,
    Equivalence,
    compare_paired,
    compare_unpaired,
    equivalence,
)
from .crossed import crossed_error, crossed_interval
from .effects import Effect
from .improvement import Improvement, probability_of_improvement
from .intervals import (
    Interval,
    Share,
    jackknife_bounds,
    mean_bounds,
    mean_interval,
    pair_interval,
    share_interval,
    t_quantile,
)
from .matched_loss import Adjusted, MatchedLoss, match_loss
from .power import Curve, Power, detectable_effect, equivalence_power, needed_seeds, plan_seeds, sd_bounds, t_test_power
from .refusal import Refused
from .robust import Location, bootstrap_interval, interquartile_mean_interval, median_interval, studentised_bootstrap
from .selection import FewerSeeds, WinnersCurse, fewer_seeds, winner_coverage, winners_curse
from .sentences import p_value
from .variance_components import Component, Components, split_variance
from .verdicts import Verdict, decide

__all__ = [
    "Adjusted",
    "Association",
    "Comparison",
    "Component",
    "Components",
    "Concordance",
    "Curve",
    "Effect",
    "Equivalence",
    "FewerSeeds",
    "Improvement",
    "Interval",
    "Location",
    "MatchedLoss",
    "Power",
    "Refused",
    "Share",
    "Verdict",
    "WinnersCurse",
    "associate",
    "bootstrap_interval",
    "compare_paired",
    "compare_unpaired",
    "crossed_error",
    "crossed_interval",
    "decide",
    "detectable_effect",
    "equivalence",
    "equivalence_power",
    "fewer_seeds",
    "interquartile_mean_interval",
    "jackknife_bounds",
    "match_loss",
    "mean_bounds",
    "mean_interval",
    "median_interval",
    "needed_seeds",
    "p_value",
    "pair_interval",
    "plan_seeds",
    "probability_of_improvement",
    "sd_bounds",
    "share_interval",
    "split_variance",
    "studentised_bootstrap",
    "t_quantile",
    "t_test_power",
    "winner_coverage",
    "winners_curse",
]
