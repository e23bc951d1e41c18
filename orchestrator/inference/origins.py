"""Where the variance between seeds comes from, where two streams of randomness were crossed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..crossing import Crossing
from ..report.words import listed
from ..stats import Component, Refused, split_variance
from .findings import VarianceFinding
from .sentences import measure
from .values import Values

if TYPE_CHECKING:
    from ..study import Study

__all__ = ["HOW", "variance"]

HOW = "crossed seeds tell where the variance comes from: seeds=crossed(init=range(5), order=range(5))"


def variance(study: Study, values: Values, crossing: Crossing | None, level: float) -> list[VarianceFinding]:
    """The parts of two crossed streams in the variance, one finding a setting.

    Raises:
        Refused: seeds are not crossed, or too few, or no setting has a value for each.
    """
    if crossing is None or not crossing.shares:
        raise Refused(f"every seed drives its streams together, or one stream alone: {HOW}")
    if len(crossing.sizes) != 2:
        raise Refused(f"{len(crossing.sizes)} streams are crossed, and their parts are told apart for two: {HOW}")
    found: list[VarianceFinding] = []
    refused: dict[str, list[str]] = {}
    shape = crossing.sizes
    for s in study.settings:
        table = [[float("nan")] * shape[1] for _ in range(shape[0])]
        for seed, (i, j) in ((k, p) for k, p in crossing.places.items() if len(p) == 2):
            table[i][j] = values.found.get((s.index, seed), float("nan"))
        try:
            result = split_variance(table, level=level)
        except Refused as refusal:
            refused.setdefault(str(refusal), []).append(s.label)
            continue
        names = crossing.names
        said = (
            f"{s.label}, {measure(values.metric)}: of the variance over {shape[0]} × {shape[1]} seeds, {names[0]} "
            f"makes {_part(result.a)}, {names[1]} {_part(result.b)}, and {100 * result.residual_of_total:.0f} % is "
            "neither's alone (their interaction and everything else). In brackets the stream's share of what varies "
            "while the other is held, with its 95 % interval."
        )
        found.append(VarianceFinding(s.index, values.metric, (names[0], names[1]), result, said))
    if not found:
        raise Refused(next(iter(refused)))
    if refused:
        told = "; ".join(f"{listed(labels)}: {why}" for why, labels in refused.items())
        found[-1] = replace(found[-1], sentence=f"{found[-1].sentence} Nothing is told of {told}.")
    return found


def _part(c: Component) -> str:
    return f"{100 * c.of_total:.0f} % ({100 * c.share:.0f} %, {100 * c.share_low:.0f} to {100 * c.share_high:.0f} %)"
