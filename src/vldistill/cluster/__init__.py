"""Independent units of work, run by processes of this machine or by a Ray cluster (see docs/cluster.md).

A unit is a module-level function and plain arguments. It leaves files and returns nothing, so it can be run twice, or
again on another node, without harm. ``units`` has the description and the loop that gives units out, ``local`` and
``rays`` run them, ``commands`` are the processes a unit starts, ``shards`` is the split of a stage among jobs.
"""

from vldistill.cluster.units import Launch, Unit, UnitFailed, run_units

__all__ = ["Launch", "Unit", "UnitFailed", "run_units"]
