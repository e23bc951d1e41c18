"""What a study found: `findings(study)`, from the artifacts and what the sweep has declared."""

from .findings import (
    Compared,
    Diverged,
    FewerSeedsFinding,
    Findings,
    PowerFinding,
    SharpnessFinding,
    VarianceFinding,
    Winner,
)

__all__ = [
    "Compared",
    "Diverged",
    "FewerSeedsFinding",
    "Findings",
    "PowerFinding",
    "SharpnessFinding",
    "VarianceFinding",
    "Winner",
]
