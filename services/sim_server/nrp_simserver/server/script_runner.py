"""The main script of an experiment: checked before anything starts, then executed with the globals it expects."""

from __future__ import annotations

import importlib.util
import linecache
import logging
import os
import sys
import traceback
import types
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from nrp_common.errors import CallNotAllowed, ConfigurationError
from nrp_simserver import processes
from nrp_simserver.cores.configuration import experiment_file
from nrp_simserver.server.core_wrapper import NRPCoreWrapper, NRPSimulationTimeout


@dataclass(frozen=True)
class MainScript:
    """A main script that compiles.

    Attributes:
        experiment: the experiment's folder.
        path: absolute.
        code: what it compiled to.
    """

    experiment: Path
    path: Path
    code: types.CodeType

    @classmethod
    def load(cls, experiment: Path, name: str) -> MainScript:
        """Read and compile the script `name` of the experiment in the folder `experiment`.

        Raises:
            ConfigurationError: it is missing, outside of the experiment, or no text.
            SyntaxError: it does not compile; `filename`, `lineno`, `text` and `offset` say where.
        """
        path = experiment_file(experiment, name, "the main script")
        data = path.read_bytes()
        try:
            source = importlib.util.decode_source(data)
            code = compile(source, str(path), "exec", dont_inherit=True)
        except UnicodeDecodeError as error:
            raise ConfigurationError(
                f"{name} is not UTF-8 text: {error.reason} at byte {error.start}", file=name
            ) from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise ConfigurationError(f"{name} cannot be compiled: {error or type(error).__name__}", file=name) from None
        # A script that changes or removes its own file still gets tracebacks with the lines that were executed.
        linecache.cache[str(path)] = (len(data), None, source.splitlines(keepends=True), str(path))
        return cls(experiment, path, code)


class NRPScriptRunner:
    """Executes a main script, from its top, as often as asked, always in the calling thread.

    The script finds itself as the module `__main__`, so that `if __name__ == "__main__":`, pickling and dataclasses
    work as in any script. Its further globals: `nrp`, `NRPSimulationTimeout`, `file_logger`, `logging`.
    """

    def __init__(self, script: MainScript, nrp: NRPCoreWrapper, simulation_id: int) -> None:
        self._script = script
        self._nrp = nrp
        self._file_logger = _file_logger(script.experiment / f"{script.path.stem}_{simulation_id}.log")

    def run(self) -> None:
        """Execute the script until it ends: by itself, by `sys.exit()` or by an uncaught `NRPSimulationTimeout`.

        A process that the script forked does not return from here.

        Raises:
            BaseException: whatever else ended it, `SystemExit` with a status included; the core's failure, when the
                script ended well only because it swallowed that; `SimulationEnding`, when it was ended.
        """
        process = os.getpid()
        try:
            self._execute()
        except BaseException as error:
            if os.getpid() != process:
                _leave_fork(error)
            raise
        if os.getpid() != process:
            _leave_fork(None)

    def _execute(self) -> None:
        module = types.ModuleType("__main__")
        module.__dict__.update(
            __file__=str(self._script.path),
            __builtins__=__builtins__,
            nrp=self._nrp,
            NRPSimulationTimeout=NRPSimulationTimeout,
            file_logger=self._file_logger,
            logging=logging,
        )
        sys.modules["__main__"] = module
        sys.argv = [str(self._script.path)]
        try:
            exec(self._script.code, module.__dict__)  # noqa: S102  executing it is the purpose
        except NRPSimulationTimeout:
            pass
        except SystemExit as end:
            if end.code not in (None, 0):
                raise
        except CallNotAllowed:
            if self._nrp.failure is None:
                raise
        if self._nrp.current_state() == "Failed":
            raise self._nrp.failure or RuntimeError("The co-simulation failed, and the main script went on regardless")


def _leave_fork(error: BaseException | None) -> NoReturn:
    """End a process that the script forked as Python would: it is no simulation, and tells nobody."""
    status = 0 if error is None else 1
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exception(error)
    processes.leave(status)


def _file_logger(path: Path) -> logging.Logger:
    # Not from the registry of loggers: no configuration that a script makes of those may silence it.
    logger = logging.Logger("file_logger", logging.DEBUG)  # noqa: LOG001
    logger.propagate = False
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    return logger
