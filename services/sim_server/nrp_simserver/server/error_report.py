"""An exception, told to a scientist: what it is, and where in the experiment's own files it happened."""

from __future__ import annotations

import sys
from pathlib import Path

from nrp_common.errors import NRPError
from nrp_common.messages import ErrorType, RuntimeErrorReport
from nrp_simserver.cores.error_place import FOUND_BY_COMPILERS, locate, own_traceback, presentable


def error_report(
    error: BaseException, *, experiment: Path, main_script: str, simulation_id: int, while_loading: bool
) -> RuntimeErrorReport:
    """Describe `error` for `runtime_error`.

    Its type is `Compile` for what a compiler would have found: wrong syntax wherever it is met, and in a simulation
    that is already initialised also names and modules that do not exist. Anything else is `Loading` before the
    simulation is initialised and `Runtime` afterwards.

    Args:
        error: what ended the simulation.
        experiment: the experiment's folder.
        main_script: the main script, relative to it.
        simulation_id: of the simulation.
        while_loading: whether the simulation was not initialised yet.
    """
    place = locate(error, experiment)
    is_main = place.file == Path(main_script).as_posix()
    report = RuntimeErrorReport(
        sim_id=str(simulation_id),
        msg=place.describe("main script" if is_main else ""),
        error_type=_error_type(place.error, while_loading=while_loading),
        file_name=place.file,
        line_number=place.line or -1,
        offset=place.offset,
        line_text=place.text,
    )
    if isinstance(place.error, NRPError):  # says all there is to say, and was not raised by the experiment's code
        file = getattr(place.error, "file", "")
        line = getattr(place.error, "line", 0)
        report = report.model_copy(
            update={
                "msg": str(place.error),
                "file_name": file or report.file_name,
                "line_number": line or report.line_number,
                "line_text": report.line_text or _line_of(experiment / file, line),
            }
        )
    texts = {field: presentable(getattr(report, field)) for field in ("msg", "file_name", "line_text")}
    return report.model_copy(update=texts)


def print_traceback(error: BaseException, experiment: Path) -> None:
    """Write the traceback to stderr, which is the simulation's log."""
    sys.stderr.write(own_traceback(error, experiment))


def _error_type(error: BaseException, *, while_loading: bool) -> ErrorType:
    if isinstance(error, SyntaxError) or (isinstance(error, FOUND_BY_COMPILERS) and not while_loading):
        return ErrorType.COMPILE
    return ErrorType.LOADING if while_loading else ErrorType.RUNTIME


def _line_of(path: Path, line: int) -> str:
    try:
        return path.read_text(encoding="utf-8").splitlines()[line - 1].strip() if line else ""
    except (OSError, UnicodeDecodeError, IndexError):
        return ""
