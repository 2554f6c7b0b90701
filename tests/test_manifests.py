"""The Kubernetes manifest of the pages and the Dockerfile: what the operator's definition asks for is there,
what has to agree agrees, and its commands can be parsed. Fields are those of the DaskJob of
kubernetes.dask.org/v1.
"""

import copy
import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
import typer
import yaml
from distributed.cli.dask_scheduler import main as dask_scheduler
from distributed.cli.dask_worker import main as dask_worker
from packaging.specifiers import SpecifierSet

from labelscape.cli import app
from labelscape.workers.cluster import SCHEDULER, WORKER

PAGE = (Path(__file__).parent.parent / "docs" / "how-to" / "clusters.md").read_text()


def closed(required, **properties):
    """An object of these fields alone: the API server drops a misspelt one without a word."""
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


TEXT, WHOLE, LIST = {"type": "string"}, {"type": "integer"}, {"type": "array", "minItems": 1}
CONTAINER = closed(
    ["name", "image", "args", "resources"],
    name=TEXT,
    image=TEXT,
    args={**LIST, "items": TEXT},  # a bare 8 or 0 would be a number, and be refused
    resources=closed(["requests", "limits"], requests={"type": "object"}, limits={"type": "object"}),
    volumeMounts={**LIST, "items": closed(["name", "mountPath"], name=TEXT, mountPath=TEXT)},
    ports={**LIST, "items": closed(["containerPort"], name=TEXT, containerPort=WHOLE, protocol=TEXT)},
    readinessProbe=closed(["httpGet"], httpGet=closed(["port"], port=TEXT, path=TEXT)),
)
POD = closed(
    ["containers"],
    restartPolicy={"enum": ["Always", "OnFailure", "Never"]},
    containers={**LIST, "items": CONTAINER},
    volumes={
        **LIST,
        "items": closed(["name"], name=TEXT, persistentVolumeClaim=closed(["claimName"], claimName=TEXT)),
    },
)
PORT = closed(["port"], name=TEXT, protocol=TEXT, port=WHOLE, targetPort=TEXT)
SERVICE = closed(["selector", "ports"], type=TEXT, selector={"type": "object"}, ports={**LIST, "items": PORT})
CLUSTER = closed(
    ["scheduler", "worker"],
    worker=closed(["spec"], replicas=WHOLE, spec=POD),
    scheduler=closed(["spec", "service"], spec=POD, service=SERVICE),
)
JOB = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "kubernetes.dask.org/v1"},
    kind={"const": "DaskJob"},
    metadata=closed(["name"], name=TEXT),
    spec=closed(["cluster", "job"], job=closed(["spec"], spec=POD), cluster=closed(["spec"], spec=CLUSTER)),
)


def faults_of(manifest):
    """What is wrong with a manifest, as texts."""
    found = [
        f"{'.'.join(map(str, e.path))}: {e.message}"
        for e in jsonschema.Draft202012Validator(JOB).iter_errors(manifest)
    ]
    if found:
        return found
    job, cluster = manifest["spec"]["job"]["spec"], manifest["spec"]["cluster"]["spec"]
    worker, scheduler = cluster["worker"]["spec"], cluster["scheduler"]["spec"]
    (runs,), (works,), (leads,) = (pod["containers"] for pod in (job, worker, scheduler))
    if len({one["image"] for one in (runs, works, leads)}) > 1:
        found.append("images differ")
    service = cluster["scheduler"]["service"]
    if service["selector"] != {
        "dask.org/cluster-name": manifest["metadata"]["name"],
        "dask.org/component": "scheduler",
    }:
        found.append("the service selects other pods")
    if {(one["targetPort"], one["port"]) for one in service["ports"]} != {
        (one["name"], one["containerPort"]) for one in leads["ports"]
    }:
        found.append("the service's ports are not the scheduler's")
    # Paths are the same for the command and the workers, and are in the volume that both have.
    if (runs["volumeMounts"], job["volumes"]) != (works["volumeMounts"], worker["volumes"]):
        found.append("the command and the workers see other folders")
    places = [mount["mountPath"] for mount in runs["volumeMounts"]]
    found += [
        f"{word} is in no volume"
        for word in runs["args"]
        if word[0] == "/" and not word.startswith(tuple(places))
    ]
    asked = parsed(typer.main.get_command(app).commands["map"], runs["args"], 2)
    if asked["workers"] != cluster["worker"]["replicas"]:
        found.append("--workers is not the number of replicas")
    if asked["cluster"] != "$(DASK_SCHEDULER_ADDRESS)":
        found.append("the command does not use the operator's scheduler")
    if parsed(dask_worker, works["args"], 2)["nthreads"] != 1:
        found.append("workers have more than one thread")
    parsed(dask_scheduler, leads["args"], 2)
    return found


def parsed(command, words, verbs):
    """Parameters that a program reads from its words behind its verbs; it is not run."""
    return command.make_context(words[0], list(words[verbs:])).params


@pytest.fixture
def manifest():
    return yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.S)[1])


def test_the_manifest_has_what_the_operator_asks_for_and_agrees_with_itself(manifest):
    assert faults_of(manifest) == []


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("metadata.name", "other", "the service selects other pods"),
        ("spec.cluster.spec.worker.replicas", 9, "--workers is not the number of replicas"),
        ("spec.cluster.spec.worker.replica", 8, "'replica' was unexpected"),
        ("spec.cluster.spec.scheduler.service", None, "is not of type 'object'"),
        ("spec.cluster.spec.worker.spec.containers.0.args.5", 1, "1 is not of type 'string'"),
        ("spec.cluster.spec.worker.spec.containers.0.args.5", "4", "more than one thread"),
        ("spec.cluster.spec.worker.spec.containers.0.image", "python:3.12", "images differ"),
        ("spec.job.spec.containers.0.args.2", "/home/mlp.safetensors", "is in no volume"),
        ("spec.job.spec.volumes.0.persistentVolumeClaim.claimName", "own", "see other folders"),
        ("spec.cluster.spec.scheduler.service.ports.0.port", 80, "ports are not the scheduler's"),
    ],
)
def test_a_fault_in_it_is_found(manifest, place, value, said):
    changed = copy.deepcopy(manifest)
    *path, last = [int(word) if word.isdigit() else word for word in place.split(".")]
    inside = changed
    for word in path:
        inside = inside[word]
    inside[last] = value
    assert any(said in fault for fault in faults_of(changed))


def test_dask_has_the_options_of_batch_scripts():
    scheduler = parsed(dask_scheduler, [*SCHEDULER.split(), "--scheduler-file", "f"], 2)
    worker = parsed(dask_worker, [*WORKER.split(), "--scheduler-file", "f"], 2)
    assert (scheduler["protocol"], scheduler["port"]) == ("tls", "0")
    assert (worker["nthreads"], worker["memory_limit"]) == (1, "0")
    assert worker["preload"] == ("labelscape.workers.cluster",)
    assert scheduler["scheduler_file"] == worker["scheduler_file"] == "f"


ROOT = Path(__file__).parent.parent


def test_the_dockerfile_is_that_of_the_pages_and_installs_as_the_readme_does():
    """Docker itself is not asked: its lines are compared with those that other tests run or read."""
    lines = [one for one in (ROOT / "Dockerfile").read_text().splitlines() if one and one[0] != "#"]
    assert lines == re.search(r"```dockerfile\n(.*?)```", PAGE, re.S)[1].splitlines()
    assert all(one.split()[0] in ("FROM", "RUN", "COPY", "WORKDIR", "CMD") for one in lines)
    (installs,) = [one.removeprefix("RUN ") for one in lines if "pip install" in one]
    readme = re.search(
        r"pip install \. -c constraints\.txt \\\n\s+(--extra-index-url \S+)", (ROOT / "README.md").read_text()
    )
    here = installs.replace(" --no-cache-dir", "").replace("'/src[cluster]'", ".").replace("/src/", "")
    assert here == f"pip install . -c constraints.txt {readme[1]}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "cluster" in project["optional-dependencies"]
    (base,) = [one.removeprefix("FROM ") for one in lines if one.startswith("FROM")]
    assert base.split(":")[1].split("-")[0] in SpecifierSet(project["requires-python"])
    # What the image starts is a verb that there is.
    assert json.loads(lines[-1].removeprefix("CMD ")) == ["labelscape", "--help"]
    assert "labelscape" in project["scripts"]


def test_the_image_holds_what_the_package_is_built_from():
    """A file that .dockerignore leaves out is missing where pip builds the wheel."""
    left_out = {
        one.strip("/")
        for one in (ROOT / ".dockerignore").read_text().splitlines()
        if one and not one.startswith("#")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", "constraints.txt", project["project"]["readme"]}
    needed |= {
        *project["project"]["license-files"],
        project["tool"]["hatch"]["version"]["path"].split("/")[0],
    }
    assert all((ROOT / one).exists() for one in needed) and not needed & left_out
