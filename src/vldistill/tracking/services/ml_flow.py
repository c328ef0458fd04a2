"""MLflow: files in ``RUN/mlruns``, or the server that ``MLFLOW_TRACKING_URI`` names."""

# The package is an extra of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vldistill.config.plain import Plain
from vldistill.tracking.tracker import Subject, register

if TYPE_CHECKING:
    from mlflow import MlflowClient

LONGEST = 500  # characters of a parameter that every server takes
ID = "vldistill.id"


@register("mlflow", package="mlflow")
class MLflow:
    """One run of experiment ``vldistill`` (or ``MLFLOW_EXPERIMENT_NAME``) a subject."""

    def __init__(self, subject: Subject) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (subject.run.resolve() / "mlruns").as_uri()
        self.client = MlflowClient(tracking_uri=uri)
        self.place = f"mlflow ui --backend-store-uri {uri}"
        experiment = _experiment(self.client, os.environ.get("MLFLOW_EXPERIMENT_NAME", "vldistill"))
        known = self.client.search_runs([experiment], f"tags.`{ID}` = '{subject.id}'", max_results=1)
        if known:
            self.run = known[0].info.run_id
            self.client.update_run(self.run, status="RUNNING")
            return
        tags = {ID: subject.id, "vldistill.stage": subject.stage, "vldistill.run": str(subject.run)}
        self.run = self.client.create_run(experiment, tags=tags, run_name=subject.name).info.run_id
        params = [Param(name, value) for name, value in _flat(subject.settings)]
        self.client.log_batch(self.run, params=params)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See Tracker."""
        for name, value in values.items():
            self.client.log_metric(self.run, name, value, step=step)

    def picture(self, step: int, path: Path) -> None:
        """See Tracker."""
        self.client.log_artifact(self.run, str(path), f"pictures/{step}")

    def close(self, done: bool) -> None:
        """See Tracker."""
        self.client.set_terminated(self.run, "FINISHED" if done else "KILLED")


def _experiment(client: MlflowClient, name: str) -> str:
    """The id of an experiment, which is made where it is missing."""
    found = client.get_experiment_by_name(name)
    return found.experiment_id if found else client.create_experiment(name)


def _flat(value: Plain, name: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf by its dotted name, as a short text."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, str(value)[:LONGEST]
