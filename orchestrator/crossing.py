"""Seeds that share streams: crossed ones, of which the trials are not independent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .stats import Comparison, Interval, crossed_error, crossed_interval, mean_interval, pair_interval, t_quantile

__all__ = ["Crossing", "crossed_comparison", "crossing_of", "interval_over", "pair_interval_over"]


@dataclass(frozen=True)
class Crossing:
    """How a study's seeds share streams of randomness.

    Attributes:
        streams: by factor, the streams that always vary together: (("init",), ("order", "noise")).
        places: by seed's label, the index of its value of each factor.
        sizes: how many values each factor has.
        held: streams that have one seed in all replicates, while others vary.
    """

    streams: tuple[tuple[str, ...], ...]
    places: Mapping[str, tuple[int, ...]]
    sizes: tuple[int, ...]
    held: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each factor: "init", "order and noise"."""
        return tuple(" and ".join(s) for s in self.streams)

    @property
    def shares(self) -> bool:
        """Whether two replicates share a seed of a stream that varies, so that their trials are not independent."""
        return any(len(self.places) > size for size in self.sizes)

    def table(self, values: Sequence[float], seeds: Sequence[str]) -> list[list[float]] | None:
        """The values as rows and columns of two crossed factors; None if they do not fill a table exactly."""
        if len(self.sizes) != 2:
            return None
        by_place = {self.places[s]: v for s, v in zip(seeds, values, strict=True) if s in self.places}
        rows, columns = (sorted({place[i] for place in by_place}) for i in (0, 1))
        if (
            len(by_place) != len(rows) * len(columns)
            or len(by_place) != len(values)
            or min(len(rows), len(columns)) < 2
        ):
            return None
        return [[by_place[i, j] for j in columns] for i in rows]


def crossing_of(seeds: Mapping[str, Mapping[str, int]]) -> Crossing | None:
    """How seeds share streams; None if a record does not say, or if there is one replicate.

    Args:
        seeds: by label, the seed of every stream.
    """
    if len(seeds) < 2:
        return None
    streams = list(dict.fromkeys(stream for by_stream in seeds.values() for stream in by_stream))
    columns = {stream: tuple(by_stream.get(stream) for by_stream in seeds.values()) for stream in streams}
    held = tuple(s for s in streams if len(set(columns[s])) == 1)
    factors: dict[tuple[int, ...], list[str]] = {}
    for stream in streams:
        if stream not in held:
            order = {v: i for i, v in enumerate(dict.fromkeys(columns[stream]))}
            factors.setdefault(tuple(order[v] for v in columns[stream]), []).append(stream)
    places = {label: tuple(index[i] for index in factors) for i, label in enumerate(seeds)}
    sizes = tuple(len(set(index)) for index in factors)
    return Crossing(tuple(map(tuple, factors.values())), places, sizes, held)


def interval_over(values: Sequence[float], seeds: Sequence[str], crossing: Crossing | None) -> Interval:
    """The mean over seeds with an interval that heeds which of them share streams."""
    interval = mean_interval(values)
    if crossing is None or not crossing.shares or interval.low is None:
        return interval
    table = crossing.table(values, seeds)
    if table is not None:
        return crossed_interval(table)
    return replace(interval, low=None, high=None, note=_NO_TABLE)


def pair_interval_over(
    values: Sequence[float], pairs: Sequence[tuple[str, str]], crossing: Crossing | None
) -> Interval:
    """The mean over pairs of seeds; where seeds share streams without an interval: the jackknife cannot heed that."""
    interval = pair_interval(values, pairs)
    if crossing is None or not crossing.shares or interval.low is None:
        return interval
    return replace(interval, low=None, high=None, note=_NO_JACKKNIFE)


def crossed_comparison(
    comparison: Comparison, x: Sequence[float], y: Sequence[float], seeds: Sequence[str], crossing: Crossing
) -> tuple[Comparison, str]:
    """A paired comparison over seeds that share streams, with the standard error of a crossed table.

    The exact tests take seeds for exchangeable, which these are not, so none is given.

    Returns:
        the comparison, and why it cannot be one, if so.
    """
    if not crossing.shares or len(x) < 2:
        return comparison, ""
    bare = replace(
        comparison, p_exact=1.0, smallest_p=1.0, exact_test="none: crossed seeds are not exchangeable", effect=None
    )
    lost = comparison.diverged
    table = None if lost else crossing.table([u - v for u, v in zip(x, y, strict=True)], seeds)
    if table is None or comparison.difference is None:
        note = "a run diverged, and no test holds for crossed seeds then" if lost else _NO_TABLE
        return replace(bare, se=None, degrees=None, low=None, high=None, p=None, effect_av=None, note=note), note
    error, degrees = crossed_error(table)
    if error == 0 or comparison.se is None:
        return bare, ""
    from scipy.special import stdtr

    half = t_quantile(comparison.level, degrees) * error
    difference = comparison.difference
    crossed = replace(
        bare,
        se=error,
        degrees=degrees,
        low=difference - half,
        high=difference + half,
        p=2 * float(stdtr(degrees, -abs(difference) / error)),
        effect_av=None,
    )
    return crossed, ""


_NO_JACKKNIFE = "crossed seeds share streams of randomness, so leaving out one at a time gives no interval that holds"
_NO_TABLE = "seeds share streams of randomness without a complete table of two, so no interval over them holds"
