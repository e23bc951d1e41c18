"""The task of `dag.py` for parsl, which sends a function with all the globals of its module."""

from __future__ import annotations


def work(uri, key, name, manifest, inputs=()):
    import dag

    return dag.work(uri, key, name, manifest, inputs)
