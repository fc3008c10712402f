"""What a process makes of itself to run one simulation, wherever it was forked from."""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

import nrp_shims
from nrp_simserver import processes
from nrp_simserver.resources import cgroups
from nrp_simserver.server.server_log import log_ourselves_only
from nrp_simserver.simulation_folder import ServerSetup, SimulationFolder

NICENESS = 10
"""Below the services, so that commands are answered while simulations take all they can get."""

SWITCH_INTERVAL_S = 0.00005
"""How soon a busy script lets the bus's threads work. It has to be less than the time between two system calls of the
script: whenever it lets go of the GIL for one, who waits for it begins to wait anew. With ten times as much, a command
to a script that prints in every fourth step of 15 us took 50 ms, and not 10."""

FIRST_TO_GO = 500
"""When the machine's memory runs out the kernel ends what has most of it. This counts as half of the machine's, so that
it ends a simulation and no service."""


def enter(setup: ServerSetup) -> None:
    """Make this process the server of one simulation: output, limits, directory, environment, import path, priority."""
    folder = SimulationFolder(setup.folder, setup.simulation_id)
    os.environ["NRP_SIMULATION_ID"] = str(setup.simulation_id)
    os.environ["NRP_INCARNATION"] = setup.incarnation
    for name, value in (("NRP_REQUEST_ID", setup.request_id), ("TRACEPARENT", setup.traceparent)):
        os.environ.pop(name, None)  # the launcher's own
        if value:
            os.environ[name] = value
    _write_to(folder.log)
    _keep_to_limits(setup)
    log_ourselves_only(setup.context, setup.log_format)
    work_in(folder.experiment)
    for number in (signal.SIGCHLD, signal.SIGALRM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    be_nice()
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def be_nice() -> None:
    """Leave the processor to the services."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))


def _keep_to_limits(setup: ServerSetup) -> None:
    if setup.cgroup is not None and not cgroups.is_inside(setup.cgroup):
        cgroups.enter(setup.cgroup)
    for kind, most in (
        (resource.RLIMIT_FSIZE, setup.largest_file),
        (resource.RLIMIT_NPROC, setup.most_tasks_of_user),
    ):
        _, hard = resource.getrlimit(kind)
        if most is not None:
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_GO))


def work_in(experiment: Path) -> None:
    """Make an experiment's folder the working directory, and where imports are found first."""
    os.chdir(experiment)
    os.environ["PWD"] = str(experiment)
    _import_from(experiment)


def leave_at_latest_in(seconds: float) -> None:
    """Have the kernel end this process in `seconds`, whatever it is doing then."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _write_to(log: Path) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    nothing = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(file)
    # Made anew: those of the process that was forked may be buffered, captured, or closed.
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  open for as long as the process lives
    sys.stdout = processes.line_buffered(1)
    sys.stderr = processes.line_buffered(2)


def _import_from(experiment: Path) -> None:
    """Let imports find the experiment's own modules first, then `nrp_core` and the like, then what is installed."""
    sys.path[:0] = [str(experiment), str(nrp_shims.PATH)]
    sys.path_importer_cache.pop(str(experiment), None)  # whatever was found there before
    own = {path.stem for path in experiment.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    # The standard library is left alone: this server lives on it. Where nothing is shadowed no module is looked at, as
    # each look copies a page of memory that is shared with the process that this one was forked from.
    shadowed = {name for name in own - sys.stdlib_module_names - {"__main__"} if name in sys.modules}
    for name in [name for name in sys.modules if name.partition(".")[0] in shadowed] if shadowed else []:
        del sys.modules[name]
