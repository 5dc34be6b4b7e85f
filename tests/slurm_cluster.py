"""A real Slurm of two nodes on this machine, one with a pretended GPU: started by hand, without systemd and cgroups.

Ports, folders and configuration are its own, and a machine with a Slurm already is left alone. Only the authentication
service (munge) is shared, if it runs. /etc/slurm holds links to the configuration meanwhile: jobs look for it there, as
the executor plugin takes SLURM_CONF out of their environment.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PACKAGES = ["slurmctld", "slurmd", "slurm-client", "munge", "slurm-wlm-basic-plugins"]
PROGRAMS = ["slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "munged"]
MUNGE_SOCKET = Path("/run/munge/munge.socket.2")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
ReturnToService=2
SlurmUser=root
SlurmdUser=root
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/%n/slurmd.pid
SlurmdSpoolDir={state}/%n
StateSaveLocation={state}/ctld
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.%n.log
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=5,batch_sched_delay=0
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
InactiveLimit=0
KillWait=5
MinJobAge=3600
Waittime=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=8000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=8000 Gres=gpu:pretended:1
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=n2 MaxTime=INFINITE State=UP
"""
ETC = Path("/etc/slurm")
#: Any existing device file serves as a GPU that Slurm can count.
GRES = "NodeName=n2 Name=gpu Type=pretended File=/dev/null\n"


class Unavailable(Exception):
    """Slurm can neither be found nor installed here; the message says why."""


def missing() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def install() -> None:
    """Install Slurm from Debian's packages, where that can be done without asking.

    Raises
    ------
    Unavailable
        If it cannot.
    """
    if not missing():
        return
    if os.geteuid():
        raise Unavailable(f"{', '.join(missing())} not installed, and only root can install packages")
    if not shutil.which("apt-get"):
        raise Unavailable(f"{', '.join(missing())} not installed, and this is no Debian or Ubuntu")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]):
        try:
            done = subprocess.run(
                command,
                env=environment,
                capture_output=True,
                text=True,
                timeout=180,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{' '.join(command[:2])} took over three minutes") from None
        if done.returncode:
            raise Unavailable(f"{' '.join(command[:2])} failed: {done.stderr.strip()[-300:]}")
    if missing():
        raise Unavailable(f"{', '.join(missing())} still missing after installing {', '.join(PACKAGES)}")


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


class Cluster:
    """Two nodes: ``n1`` and ``n2``, partitions ``cpu`` (both) and ``gpu`` (``n2``).

    Parameters
    ----------
    state
        Folder for configuration, state and logs.
    """

    def __init__(self, state: Path):
        self.state = state
        self._links: list[Path] = []
        self._own_munge: subprocess.Popen | None = None

    def start(self) -> None:
        """Start all daemons and wait until both nodes are idle.

        Raises
        ------
        Unavailable
            If that takes more than a minute.
        """
        if os.geteuid():
            raise Unavailable("the daemons of Slurm run as root")
        if os.environ.get("SLURM_CONF") or (ETC / "slurm.conf").exists():
            raise Unavailable("this machine has a Slurm already, or another test run has")
        for name in ("ctld", "n1", "n2"):
            (self.state / name).mkdir()
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(state=self.state, host=host, ports=_free_ports(3))
        (self.state / "slurm.conf").write_text(text)
        (self.state / "gres.conf").write_text(GRES)
        ETC.mkdir(exist_ok=True)
        for name in ("slurm.conf", "gres.conf"):
            (ETC / name).unlink(missing_ok=True)  # left by a test run that was killed
            (ETC / name).symlink_to(self.state / name)
            self._links.append(ETC / name)
        if not MUNGE_SOCKET.exists():
            self._start_munge()
        for command in (["slurmctld"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"]):
            subprocess.run(command, check=True, timeout=30, capture_output=True)
        deadline = time.monotonic() + 60
        while self.run("sinfo", "-N", "-h", "-p", "cpu", "-o", "%T").split() != ["idle", "idle"]:
            if time.monotonic() > deadline:
                log = (self.state / "slurmctld.log").read_text()[-500:]
                raise Unavailable(f"the two nodes were not idle within a minute; slurmctld says: {log}")
            time.sleep(0.5)

    def _start_munge(self) -> None:
        MUNGE_SOCKET.parent.mkdir(parents=True, exist_ok=True)
        shutil.chown(MUNGE_SOCKET.parent, "munge", "munge")
        command = ["runuser", "-u", "munge", "--", "munged", "--foreground"]
        self._own_munge = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not MUNGE_SOCKET.exists():
            if time.monotonic() > deadline or self._own_munge.poll() is not None:
                raise Unavailable("munged did not start")
            time.sleep(0.1)

    def run(self, *command: str) -> str:
        """Return what a command of Slurm prints; nothing while the controller does not answer."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout

    def jobs(self) -> list[dict[str, str]]:
        """Return all jobs so far, oldest first: rule and wildcards, partition, state, nodes."""
        names = ("number", "comment", "partition", "state", "nodes")
        lines = self.run("squeue", "--states=all", "-h", "-S", "i", "-o", "%i|%k|%P|%T|%D").splitlines()
        return [dict(zip(names, line.split("|"), strict=True)) for line in lines]

    def stop(self) -> None:
        """End all jobs and daemons."""
        if not self._links:
            return
        self.run("scancel", "--state=RUNNING", "--user=root")
        for name in ("n1/slurmd.pid", "n2/slurmd.pid", "slurmctld.pid"):
            path = self.state / name
            if path.exists():
                _end(int(path.read_text()))
        if self._own_munge:
            self._own_munge.terminate()
            self._own_munge.wait(20)
        for link in self._links:
            link.unlink()
        self._links = []


def _end(process: int) -> None:
    """End a daemon, by force after ten seconds."""
    deadline = time.monotonic() + 10
    try:
        os.kill(process, signal.SIGTERM)
        while time.monotonic() < deadline:
            os.kill(process, 0)
            time.sleep(0.1)
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return
