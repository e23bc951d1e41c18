"""The task of `dag.py` for redun, whose worker processes find tasks by importing their module."""

from __future__ import annotations

from typing import Any

import dag
from redun import task


@task(name="work", namespace="dag", version="1", executor="process")
def work(uri: str, key: str, name: str, manifest: dict[str, Any], needs: list[int]) -> int:
    return dag.work(uri, key, name, manifest, needs)
