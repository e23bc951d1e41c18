"""What a terminal shows of a run: the same for who runs it and for who looks on from elsewhere.

A screen is made for a width and a height and exceeds neither. Where there is not room for all, what matters less is
folded ("+92 more"), and what is long is cut in its middle, where it is like its neighbours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich.cells import cell_len, set_cell_size
from rich.console import Group
from rich.text import Text

from .standing import AtWork, Standing, Tally
from .standing_words import best_in_words, duration, expected_end, how_many, how_to_go_on

GAP = "  "
ELLIPSIS = "… "
BAR = {"done": ("━", "green"), "failed": ("━", "red"), "skipped": ("━", "yellow"), "busy": ("─", "cyan")}
REST = ("─", "bright_black")

MOST_COLUMNS = 2
"""Into how many columns the workers go where the terminal is wide."""


def screen(
    standing: Standing, now: float, width: int, height: int, *, title: str = "", store: str = "", note: str = ""
) -> Group:
    """Where a run stands, in at most so many columns and lines.

    Args:
        now: Unix seconds.
        title: what the run is of.
        store: what to add to a command so that it is about the same store.
        note: a sentence of whoever looks on.
    """
    width, height = max(width, 20), max(height, 4)
    head = _head(standing, now, title, width)
    if standing.started is None:
        lines = [*head, Text(GAP + (note or standing.why or "starting Ray, and looking at the nodes …"), style="dim")]
    else:
        if standing.search:
            head.append(Text(GAP + _proposed(standing), style="dim"))
        parts = [
            _kinds(standing, width),
            _best(standing, width),
            _trouble(standing, now, width, note),
            _failures(standing, width, store),
            _notes(standing, width),
            _workers(standing, now, width),
        ]
        lines = [*head, *_fitted(parts, height - len(head))]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return Group(*lines[:height])


# Words


def middle_cut(text: str, width: int) -> str:
    """The text in so many columns, its middle left out if need be: beginning and end tell most."""
    if cell_len(text) <= width:
        return text
    if width < 2:
        return "…"[:width]
    tail = (width - 1) // 2
    head = set_cell_size(text, width - 1 - tail)
    end = len(text)
    while end and cell_len(text[end - 1 :]) <= tail:
        end -= 1
    return f"{head}…{text[end:]}"


def cut_alike(labels: Sequence[str], width: int) -> list[str]:
    """Labels in so many columns: parts that all of them share go first, then the middle of what is too long still.

    "Train · depth=3, width=64, rho=0.05 · seed 3" becomes "Train · … rho=0.05 · seed 3" where its neighbours have the
    same depth and width.
    """
    split = [_parts(label) for label in labels]
    shared = set(split[0]).intersection(*map(set, split[1:])) if len(split) > 1 else set()
    first = {parts[0] for parts in split}
    for part in [p for p in (split[0] if split else ()) if p in shared and p not in first]:
        if all(cell_len("".join(parts)) <= width for parts in split):
            break
        split = [[ELLIPSIS if p == part else p for p in parts] for parts in split]
        split = [[p for i, p in enumerate(ps) if not (i and p == ps[i - 1] == ELLIPSIS)] for ps in split]
    return [middle_cut("".join(parts), width) for parts in split]


def _parts(label: str) -> list[str]:
    return label.replace(" · ", " · \0").replace(", ", ", \0").replace(" × ", " × \0").split("\0")


# Parts of the screen


@dataclass(frozen=True)
class _Part:
    """Lines of which as many are shown as there is room for.

    Attributes:
        most: how many there are.
        least: how few it may be.
        lines: that many of them, with heading and fold.
        order: which part grows first, and to what size: pairs of turn and size.
        heading: of how many lines.
        folds: whether a line tells of what is not shown.
    """

    most: int
    least: int
    lines: Callable[[int], list[Text]]
    order: tuple[tuple[int, int], ...] = ()
    heading: int = 0
    folds: bool = True

    def height(self, n: int) -> int:
        """Of `lines(n)`."""
        return self.heading + n + (self.folds and n < self.most) if n else 0


def _fitted(parts: Sequence[_Part], height: int) -> list[Text]:
    """The parts in their order, each as large as there is room for, with blank lines between if there is room."""
    sizes = [p.least for p in parts]
    used = sum(p.height(n) for p, n in zip(parts, sizes, strict=True))
    shown = sum(p.most > 0 for p in parts)
    room = height - shown if height >= 3 * shown else height
    for _, i, size in sorted((turn, i, size) for i, p in enumerate(parts) for turn, size in p.order):
        part = parts[i]
        # The last line takes the place of the fold.
        while sizes[i] < min(size, part.most) and (used + part.height(sizes[i] + 1) - part.height(sizes[i]) <= room):
            used += part.height(sizes[i] + 1) - part.height(sizes[i])
            sizes[i] += 1
    blocks = [p.lines(n) for p, n in zip(parts, sizes, strict=True) if n]
    gaps = height - used >= len(blocks)
    return [line for block in blocks for line in ([Text()] if gaps else []) + block]


def _head(standing: Standing, now: float, title: str, width: int) -> list[Text]:
    ended = standing.ended or ("ending" if standing.halting else "running" if standing.started else "starting")
    good = {"finished": "yellow" if standing.total.failed else "green", "running": "cyan", "starting": "cyan"}
    colour = good.get(ended, "yellow")
    text = Text(title, style="bold")
    text.append(GAP if title else "").append(ended, style=f"bold {colour}")
    if standing.started is not None:
        slots = f"{standing.slots} slot" + ("s" if standing.slots != 1 else "")
        text.append(f" on {slots}{GAP}{duration(standing.elapsed(now))}", style="default")
    end = "" if standing.started is None else expected_end(standing, now)
    if not end:
        return [text]
    if text.cell_len + len(GAP) + cell_len(end) > width:
        return [text, Text(GAP + end)]
    return [text.append(GAP + end, style="default")]


def _proposed(standing: Standing) -> str:
    return f"{standing.search} has proposed {standing.proposed} of {standing.samples} settings"


def _kinds(standing: Standing, width: int) -> _Part:
    """Progress of all tasks, and of each kind."""
    busy = standing.busy()
    rows = [("all tasks", standing.total, sum(busy.values()))]
    rows += [(kind, tally, busy[kind]) for kind, tally in standing.tallies.items()]

    def lines(n: int) -> list[Text]:
        shown, folded = rows[:n], rows[n:]
        names = [middle_cut(name, max(width // 4, 9)) for name, _, _ in shown]
        table = [("", "done", "of", *(["at work"] if standing.ended is None else []), "failed", "skipped")]
        whole = (standing.total.failed, standing.total.skipped)
        for name, (_, tally, working) in zip(names, shown, strict=True):
            numbers = [
                str(tally.stored + tally.done),
                how_many(standing) if tally is standing.total else "?" if tally.tasks is None else str(tally.tasks),
            ]
            numbers += [str(working or "")] if standing.ended is None else []
            table.append((name, *numbers, str(tally.failed or ""), str(tally.skipped or "")))
        keep = [True] * (len(table[0]) - 2) + [bool(w) for w in whole]
        columns = [[row[i] for row in table] for i in range(len(table[0])) if keep[i]]
        sizes = [max(cell_len(cell) for cell in column) for column in columns]
        room = width - sum(sizes) - len(GAP) * len(sizes)
        bar = min(room, 60) if room >= 8 else 0
        styles = {"failed": "red", "skipped": "yellow", "at work": "cyan"}
        found = []
        for i, row in enumerate(zip(*columns, strict=True)):
            line = Text(row[0].ljust(sizes[0]), style="dim" if i == 0 else "bold" if i == 1 else "default")
            if bar:
                line.append(GAP)
                line.append_text(Text(" " * bar) if i == 0 else _bar(shown[i - 1][1], shown[i - 1][2], bar))
            for column, cell, size in zip(columns[1:], row[1:], sizes[1:], strict=True):
                line.append(GAP + cell.rjust(size), style=styles.get(column[0], "") if i else "dim")
            found.append(line)
        if folded:
            done, of = sum(t.over for _, t, _ in folded), sum(t.tasks or 0 for _, t, _ in folded)
            found.append(Text(f"+{len(folded)} more kinds: {done} of {of} done", style="dim"))
        return found

    return _Part(len(rows), 1, lines, ((0, 8), (8, len(rows))), heading=1)


def _bar(tally: Tally, busy: int, width: int) -> Text:
    """What became of tasks, each kind of end in its colour; what is not zero has a cell where there is room."""
    of = max(tally.tasks or 0, tally.over + busy, 1)
    amounts = {"done": tally.stored + tally.done, "failed": tally.failed, "skipped": tally.skipped, "busy": busy}
    cells = {name: int(n / of * width) for name, n in amounts.items()}
    for name, n in amounts.items():
        if n and not cells[name]:
            cells[name] = 1
    left = width - sum(cells.values())
    if tally.over == of and left > 0:  # complete is complete
        cells[max(amounts, key=lambda name: amounts[name])] += left
        left = 0
    while left < 0 or (left == 0 and tally.over < of):
        cells[max(cells, key=lambda name: cells[name])] -= 1
        left += 1
    bar = Text()
    for name, (char, colour) in BAR.items():
        bar.append(char * cells[name], style=colour)
    return bar.append(REST[0] * left, style=REST[1])


def _best(standing: Standing, width: int) -> _Part:
    best = standing.best()
    if best is None:
        return _Part(0, 0, lambda n: [])
    what, value = best_in_words(standing, best)
    head = Text(f"{what}: ", style="dim")
    room = width - head.cell_len
    if cell_len(best.setting) + len(GAP) + cell_len(value) <= room:
        lines = [head.append(f"{best.setting}{GAP}", style="not dim bold").append(value, style="not dim")]
    else:
        head.append(middle_cut(best.setting, room), style="not dim bold")
        lines = [head, Text(GAP + value)]
    return _Part(len(lines), len(lines), lambda n: lines)


def _trouble(standing: Standing, now: float, width: int, note: str) -> _Part:
    """What the run as a whole waits for, or ends by."""
    told = [note] if note else []
    if standing.away:
        told.append(f"waiting for the store for {duration(now - standing.away_since)}: {standing.away}")
    if standing.ended is None and standing.halting:
        told.append(f"ending, what is running is saved: {standing.halting}")
    if standing.ended in ("interrupted", "halted"):
        told.append(how_to_go_on(standing))
    lines = [Text(line, style="yellow") for text in told for line in wrap(text, width)]
    return _Part(len(lines), min(2, len(lines)), lambda n: lines[:n], ((1, 6),), folds=False)


def _failures(standing: Standing, width: int, store: str) -> _Part:
    found = list(standing.failures.values())[-20:][::-1]
    total = standing.total.failed

    def lines(n: int) -> list[Text]:
        how = f"python -m orchestrator logs KEY{store}"
        words = f"{total} failed, each with a log: {how}"
        head = Text(words if cell_len(words) <= width else f"{total} failed, see: {how}", style="red")
        table = []
        for failure in found[:n]:
            skipped = f" ({failure.blocked} skipped)" if failure.blocked else ""
            label = middle_cut(failure.label, max((width - 18) // 2, 12))
            text = f"{GAP}{failure.key[:12]}  {label}: {failure.error}"
            room = width - cell_len(skipped)
            text = text if cell_len(text) <= room else set_cell_size(text, room - 1) + "…"
            table.append(Text(text + skipped))
        return [head, *table]

    return _Part(len(found), 1 if found else 0, lines, ((3, 2), (7, 8)), heading=1, folds=False)


def _notes(standing: Standing, width: int) -> _Part:
    """What went another way than planned, without harm."""
    counts, told = standing.counts, [f"left out: {why}" for why in standing.left_out.values()]
    if standing.losses:
        loss = standing.losses[next(reversed(standing.losses))]
        told.append(f"lost with their worker: {_times(counts['lost'])}, the last one since {loss.why}")
    if counts["enlarged"]:
        told.append(f"out of memory: {_times(counts['enlarged'])}, run again with a larger slot")
    if counts["damaged"]:
        told.append(f"found damaged: {_times(counts['damaged'])}, made again")
    if standing.total.elsewhere:
        told.append(f"left to other runs on this store: {_tasks(standing.total.elsewhere)}, at work there")
    if counts["stopped"]:
        told.append(f"stopped early by the scheduler: {_tasks(counts['stopped'])}")
    if standing.total.stored:
        told.append(f"not run, stored already: {_tasks(standing.total.stored)}")

    def lines(n: int) -> list[Text]:
        folded = [f"+{len(told) - n} more"] if len(told) > n else []
        return [Text(text, style="dim") for text in (*told[:n], *folded)]

    return _Part(len(told), 0, lines, ((4, 3), (6, 6)))


def _workers(standing: Standing, now: float, width: int) -> _Part:
    """What each worker is at."""
    workers = standing.workers()
    columns = MOST_COLUMNS if width >= 150 and len(workers) > 8 else 1

    def lines(n: int) -> list[Text]:
        shown, folded = workers[: n * columns], workers[n * columns :]
        each = (width - 3 * (columns - 1)) // columns
        rows = _worker_rows(shown, now, each, standing.widest)
        per = -(-len(rows) // columns)
        found = [Text("at work", style="dim")]
        for i in range(per):
            line = rows[i].copy()
            for other in rows[i + per :: per]:
                line.append(" " * (each - line.cell_len + 3) if columns > 1 else "").append_text(other)
            found.append(line)
        if folded:
            kinds = Counter(w.kind for w in folded)
            what = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common(4))
            found.append(Text(f"{GAP}+{len(folded)} more: {what}{', …' if len(kinds) > 4 else ''}", style="dim"))
        return found

    rows = -(-len(workers) // columns)
    return _Part(rows, min(1, rows), lines, ((2, 3), (5, 6), (9, rows)), heading=1)


def _worker_rows(workers: Iterable[AtWork], now: float, width: int, widest: int) -> list[Text]:
    told = list(workers)
    if not told:
        return []
    names = cut_alike([w.worker for w in told], max(width // 5, 8))
    names[0] = names[0].ljust(min(widest, max(width // 5, 8)))  # so that nothing moves while some have no name yet
    since = [duration(now - w.since) for w in told]
    doing = [middle_cut(w.doing, 18) if width >= 60 else "" for w in told]
    wide = [max(map(cell_len, column)) for column in (names, doing, since)]
    room = width - sum(wide) - len(GAP) * (2 + bool(wide[0]) + bool(wide[1]))
    labels = cut_alike([w.label for w in told], max(room, 6))
    rows = []
    for name, label, how, ago in zip(names, labels, doing, since, strict=True):
        line = Text(GAP)
        if wide[0]:
            line.append(set_cell_size(name, wide[0]) + GAP, style="cyan")
        line.append(set_cell_size(label, max(room, 6)))
        if wide[1]:
            line.append(GAP + set_cell_size(how, wide[1]), style="dim")
        line.append(GAP + ago.rjust(wide[2]), style="dim")
        rows.append(line)
    return rows


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _tasks(number: int) -> str:
    return "1 task" if number == 1 else f"{number} tasks"
