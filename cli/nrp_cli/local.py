"""`nrp run --local`: an experiment in this process, without broker and gateway."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from nrp_cli.progress import follow, real_time_factor
from nrp_cli.rest_client import Simulation
from nrp_cli.terminal import FAILED, INTERRUPTED, complain, console, print_json, seconds
from nrp_common.errors import NRPError
from nrp_simserver.cores.error_place import locate
from nrp_simserver.server.error_report import print_traceback
from nrp_simserver.server.local_run import NO_SIMULATION, LocalRun
from nrp_simserver.settings import CoreSettings

DEFAULT_CONFIGURATION = "simulation_config.json"
DEFAULT_SCRIPT = "main_script.py"


class _Followed:
    """The run as a record, for whoever shows its progress."""

    def __init__(self, run: LocalRun) -> None:
        self.state = "started"
        self._clock = run.clock

    def simulation(self, simulation_id: int) -> Simulation:
        """The record as it is now."""
        return {
            "simulationID": simulation_id,
            "state": self.state,
            "simulationTime": self._clock.simulation_time,
            "realTime": self._clock.real_time,
            "simulationTimeLeft": self._clock.simulation_time_left,
        }


def run_locally(
    folder: Path,
    configuration: str | None,
    main_script: str | None,
    realtime_factor: float | None,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Run an experiment in its own folder; the exit status: 0 completed, 1 failed, 130 interrupted.

    Args:
        folder: the experiment's.
        configuration: another configuration than the usual one.
        main_script: another main script than the usual one.
        realtime_factor: the most simulated seconds in a real second; 0 for no limit, None for the configuration's.
        timeout: real seconds after which the run is ended and counts as failed.
        as_json: print each change of the record as JSON.
    """
    run = LocalRun(
        folder,
        configuration or DEFAULT_CONFIGURATION,
        main_script or DEFAULT_SCRIPT,
        CoreSettings.load(),
        real_time_factor=realtime_factor,
    )
    followed = _Followed(run)
    watcher = threading.Thread(
        target=follow,
        args=(followed, NO_SIMULATION),
        kwargs={"until": ("completed", "failed", "stopped"), "report": print_json if as_json else None},
        daemon=True,
    )
    _interrupt_after(timeout)
    watcher.start()
    status, complaint = 0, None
    state = "completed"
    try:
        run.run()
    except KeyboardInterrupt:
        state, status, complaint = "stopped", INTERRUPTED, "Interrupted"
    except _TooLong:
        state, status, complaint = "failed", FAILED, f"Not completed after {timeout:g} s of real time"
    except NRPError as error:  # says all there is to say
        state, status, complaint = "failed", FAILED, str(error)
        if locate(error, folder).error is not error:
            print_traceback(error, folder)
    except BaseException as error:  # noqa: BLE001  whatever user code raised
        state, status, complaint = "failed", FAILED, locate(error, folder).describe()
        print_traceback(error, folder)
    finally:
        _interrupt_after(None)
        followed.state = state
        watcher.join()
    if complaint is not None:
        complain(complaint)
    if not as_json:
        record = followed.simulation(NO_SIMULATION)
        simulated, real = seconds(record["simulationTime"]), seconds(record["realTime"])
        console.print(f"{simulated} simulated in {real} ({real_time_factor(record)})")
    sys.stdout.flush()
    return status


class _TooLong(BaseException):
    """The run has taken its time. No `Exception`, so that a script's `except Exception` lets it pass."""


def _interrupt_after(timeout: float | None) -> None:
    def interrupt(*_: object) -> None:
        raise _TooLong

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, timeout or 0.0)
