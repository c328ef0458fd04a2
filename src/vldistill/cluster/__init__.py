"""Independent units of work, run by processes of this machine or by a Ray cluster (see docs/cluster.md).

A unit is a module-level function and plain arguments. It writes files and returns nothing, so it can safely run again,
also on another node. ``units`` defines units and the loop that submits them, ``local`` and ``rays`` run them,
``commands`` starts their processes, ``shards`` splits a stage among jobs.
"""

from vldistill.cluster.units import Launch, Unit, UnitFailed, run_units

__all__ = ["Launch", "Unit", "UnitFailed", "run_units"]
