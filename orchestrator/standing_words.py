"""Where a run stands, in words."""

from __future__ import annotations

from datetime import datetime

from .standing import Best, Standing


def summary(standing: Standing, now: float) -> str:
    """Where a run stands, in one line."""
    if standing.started is None:
        return "starting"
    total = standing.total
    words = [f"{total.over}/{how_many(standing)} tasks"]
    words += [f"{total.failed} failed"] if total.failed else []
    words += [f"{total.skipped} skipped"] if total.skipped else []
    words += ["ending"] if standing.halting and standing.ended is None else []
    words += [end] if (end := expected_end(standing, now)) else []
    if standing.away:
        words.append("waiting for the store")
    best = standing.best()
    if best is not None:
        what, value = best_in_words(standing, best)
        words.append(f"{what}: {best.setting}: {value}")
    text = ", ".join(words[:-1] if best else words) + (f"; {words[-1]}" if best else "")
    return f"{clock(now)}  {duration(standing.elapsed(now))}  {text}"


def expected_end(standing: Standing, now: float) -> str:
    """ "about 25 min left, until about 14:32", or why that is not known; empty for a run that is ending."""
    left = standing.remaining(now)
    if standing.ended is not None or standing.halting:
        return ""
    if left is None:
        unknown = standing.unmeasured()
        if standing.search and not standing.proposed:
            return "end not known yet"
        return f"end not known before the first {unknown[0]} is done" if unknown else "end not known yet"
    return f"about {duration(left, rough=True)} left, until about {clock(now + left, now)}"


def best_in_words(standing: Standing, best: Best) -> tuple[str, str]:
    """ "best so far (exploratory)", "val_accuracy 0.9060 ± 0.0090 (95 %), 3 of 5 seeds"."""
    from .report.words import number, with_half_width

    interval = best.interval
    what = "best so far (exploratory)" if best.others else "so far"
    seeds = f"{interval.n} of {standing.seeds} seeds" if standing.seeds else f"{interval.n} seeds"
    if interval.half is None or interval.half == 0 or interval.mean is None:
        value = number(interval.mean)
        note = ", all equal" if interval.n > 1 else ": no interval" if standing.seeds > 1 else ""
    else:
        value = f"{with_half_width(interval.mean, interval.half)} ({interval.level:.0%})".replace("%", " %")
        note = ": two tell little" if interval.n == 2 else ""
    lost = f", {best.lost} diverged, failed or stopped" if best.lost else ""
    return what, f"{standing.metric} {value}, {seeds}{note}{lost}"


def how_to_go_on(standing: Standing) -> str:
    """Why a run ended before all was done, and the remedy."""
    remedy = "Run the same command again to go on."
    said = "same command again" in standing.why
    return standing.why if said else f"{standing.why} {remedy}" if standing.why else remedy


def duration(seconds: float, *, rough: bool = False) -> str:
    """ "40 s", "12 min 30 s", "3 h 05 min", "4 days 2 h"; `rough` leaves out what an estimate cannot tell."""
    seconds = min(max(seconds, 0.0), 1e11)
    if rough:
        unit = next((size for least, size in ((86_400, 3600), (5400, 300), (600, 60), (60, 10)) if seconds >= least), 1)
        seconds = max(round(seconds / unit) * unit, 1)
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} {'day' if days == 1 else 'days'} {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return (f"{minutes} min" + (f" {rest:02d} s" if rest or not rough else "")) if minutes else f"{rest} s"


def clock(when: float, now: float | None = None) -> str:
    """The time of day; with the day where that is not the one of `now`."""
    try:
        then = datetime.fromtimestamp(when)
        if now is None:
            return then.strftime("%H:%M:%S")
        days = (then.date() - datetime.fromtimestamp(now).date()).days
    except (ValueError, OverflowError, OSError):
        return "?"
    return then.strftime("%H:%M" if days == 0 else "%a %H:%M" if 0 < days < 7 else "%Y-%m-%d %H:%M")


def how_many(standing: Standing) -> str:
    """How many tasks there are, "45+" where more may be proposed."""
    tasks = standing.total.tasks
    more = "+" if standing.search and standing.proposed < standing.samples and standing.ended is None else ""
    return "?" if tasks is None else f"{tasks}{more}"
