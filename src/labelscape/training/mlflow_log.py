"""The training log in MLflow. Needs the package mlflow-skinny, and for a database on this machine sqlalchemy
and alembic.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labelscape.training.recipe import Recipe

MOST_VALUES = 900
"""Values in one request; MLflow takes 1000."""
LONGEST = 500
"""Characters of a parameter's value, which older servers refuse to exceed; the checkpoint has the whole."""


class MlflowLog:
    """A training as a run of MLflow, named after its folder and network: in the user's MLFLOW_TRACKING_URI,
    or else in a database in the training's folder.
    """

    def __init__(self, out: Path, recipe: Recipe, known: str) -> None:
        from mlflow import MlflowClient

        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(out / 'mlflow.db').absolute()}"
        self.client = MlflowClient(tracking_uri=place)
        self.id = self._continued(known) or self._new(out, recipe)
        points = self.client.get_metric_history(self.id, "loss")
        self.step = max((point.step for point in points), default=0)
        self.where = f"run {self.id} in {place}"
        if place.startswith("sqlite:"):
            self.where += f" (look at it with: mlflow ui --backend-store-uri {place})"

    def _continued(self, known: str) -> str:
        """The id of a training's run that was begun before, if it is still there."""
        from mlflow.exceptions import MlflowException

        if not known:
            return ""
        try:
            self.client.update_run(known, status="RUNNING")
        except MlflowException as error:
            # Deleted, or in another place. A server that is away is an error like any other.
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return ""
        return known

    def _new(self, out: Path, recipe: Recipe) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "labelscape")
        found = self.client.get_experiment_by_name(name)
        experiment = os.environ.get("MLFLOW_EXPERIMENT_ID") or (
            found.experiment_id if found else self._new_experiment(name, out)
        )
        run = self.client.create_run(experiment, run_name=f"{out.absolute().name} {recipe.network}")
        params = [Param(key, text) for key, text in _params(recipe.model_dump(mode="json"))]
        for first in range(0, len(params), 100):  # MLflow takes no more at a time
            self.client.log_batch(run.info.run_id, params=params[first : first + 100])
        return run.info.run_id

    def _new_experiment(self, name: str, out: Path) -> str:
        # Files belong beside a database of ours; by default MLflow names a folder below the current one.
        beside = (
            None if "MLFLOW_TRACKING_URI" in os.environ else (out / "mlflow-artifacts").absolute().as_uri()
        )
        return self.client.create_experiment(name, artifact_location=beside)

    def rows(self, lines: Sequence[Mapping[str, float]]) -> None:
        for first in range(0, len(lines), MOST_VALUES // 10):  # a line has fewer than ten values
            some = lines[first : first + MOST_VALUES // 10]
            self._metrics(
                [(k, v, int(line["step"])) for line in some for k, v in line.items() if k != "step"]
            )
            self.step = int(some[-1]["step"])

    def end(self, scores: Mapping[str, float], checkpoint: Path) -> None:
        values = [(_name(key), value, self.step) for key, value in scores.items()]
        for first in range(0, len(values), MOST_VALUES):
            self._metrics(values[first : first + MOST_VALUES])
        self.client.set_tag(self.id, "checkpoint", str(checkpoint))

    def _metrics(self, values: Sequence[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.id, metrics=[Metric(key, value, now, step) for key, value, step in values])

    def close(self, *, well: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if well else "KILLED")


def _params(settings: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, str]]:
    """Settings one by one under dotted names, as text."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _params(value, f"{where}{key}.")
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield _name(where + key), text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _name(text: str) -> str:
    """A name with nothing in it that MLflow refuses, such as commas in names of classes."""
    return re.sub(r"[^\w.\-:/ ]", "_", text)[:250]
