"""Files and stores of nearly the name that somebody typed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .errors import nearest

__all__ = ["nearest_file", "nearest_store"]


def nearest_file(typed: str | Path, *patterns: str) -> str:
    """`" (did you mean 'sweeps/sam_rho.py'?)"` for a file here, in its folder or one below, or `""`.

    Args:
        patterns: what it has to look like ("*.py").
    """
    path = Path(typed)
    if path.parent.is_dir():
        beside = {file.stem: str(file) for file in _matching(path.parent, patterns)}
        if hint := nearest(path.stem, beside, tell=beside):
            return hint
    found = _matching(Path(), patterns)
    found += [file for folder in _matching(Path(), ["*/"]) for file in _matching(folder, patterns)]
    names = {str(file.with_suffix("")): str(file) for file in found}
    stems = {file.stem: str(file) for file in reversed(found)}
    return nearest(path.stem, stems, tell=stems) or nearest(str(path.with_suffix("")), names, tell=names)


def _matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    try:
        return sorted(file for pattern in patterns for file in folder.glob(pattern))
    except OSError:
        return []


def nearest_store(typed: str) -> str:
    """The same for the folder of a store that is not there; `""` where it is, or is no folder."""
    path = Path(typed).expanduser()
    if "://" in typed or path.exists() or not path.parent.is_dir():
        return ""
    folders = [folder for folder in _matching(path.parent, ["*"]) if (folder / "artifacts").is_dir()]
    names = {folder.name: str(Path(typed).parent / folder.name) for folder in folders}
    return nearest(path.name, names, tell=names)
