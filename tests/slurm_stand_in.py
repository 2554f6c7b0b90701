"""What stands in for SLURM where it is not installed (`fake_srun`), and a real one on this machine alone
(`private_slurm`): munge, slurmctld and two slurmd, with ports, keys and folders of its own.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")


def stub(folder, name, text):
    """A program of a shell script."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


def fake_srun(folder):
    """`srun` that runs each task of a job on this machine, SLURM_NTASKS of them, with the output in the file
    of --output; like the real one it kills them at a SIGTERM.
    """
    stub(
        folder,
        "srun",
        """\
while [[ $1 == --* ]]; do [[ $1 == --output=* ]] && log=${1#--output=}; shift; done
trap 'kill -KILL $(jobs -p)' TERM
for ((n = 0; n < SLURM_NTASKS; n++)); do SLURM_LOCALID=$n "$@" &>> "$log" & done
wait; wait""",
    )


def job_environment(folder, tasks=2):
    """What SLURM sets in a job, with programs of `folder` before all others."""
    return {
        **os.environ,
        "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": str(tasks),
        "SLURM_CPUS_PER_TASK": "1",
    }


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def is_installed():
    return os.name == "posix" and os.geteuid() == 0 and all(shutil.which(one) for one in PROGRAMS)


@contextlib.contextmanager
def private_slurm(folder):
    """A cluster of two nodes, both this machine, with four processors each; yields the environment in which
    `sbatch` submits to it.
    """
    host, (controller, *nodes) = socket.gethostname(), free_ports(3)
    (folder / "state").mkdir(parents=True)
    key = folder / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    (folder / "slurm.conf").write_text(f"""\
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
KillWait=2
SlurmdParameters=config_overrides
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{min(nodes)},{max(nodes)}] CPUs=4 RealMemory=8000
PartitionName=all Nodes=ALL Default=YES State=UP
""")
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    daemons = [
        ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge"]
        + [f"--{kind}-file={folder}/munge.{kind}" for kind in ("pid", "log", "seed")],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-N", "n1"],
        ["slurmd", "-D", "-N", "n2"],
    ]
    started = []
    try:
        for daemon in daemons:
            with (folder / f"{daemon[0]}-{daemon[-1]}.out".replace("/", "_")).open("wb") as log:
                started.append(subprocess.Popen(daemon, env=environment, stdout=log, stderr=log))
            time.sleep(1)
        until = time.monotonic() + 60
        while (
            subprocess.run(
                ["sinfo", "-h", "-t", "idle", "-o", "%D"], env=environment, capture_output=True
            ).stdout.strip()
            != b"2"
        ):
            assert time.monotonic() < until, (folder / "slurm.conf").read_text()
            time.sleep(0.5)
        yield environment
    finally:
        subprocess.run(["scancel", "--user=root"], env=environment, capture_output=True)
        time.sleep(3)  # KillWait
        for daemon in reversed(started):
            daemon.terminate()
            daemon.wait(20)
