"""Loading of the files that define an experiment's functions."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType

from nrp_common.errors import FunctionFailed
from nrp_simserver.cores.configuration import FunctionConfiguration, SimulationConfiguration
from nrp_simserver.cores.embedded.functions import (
    Declared,
    Function,
    declarations,
    function_error,
    misuse,
    start_declarations,
)
from nrp_simserver.cores.embedded.surroundings import FUNCTIONS, import_from_beside

logger = logging.getLogger(__name__)


def load_functions(configuration: SimulationConfiguration, folder: Path) -> list[Function]:
    """Run the files of all active functions, in order, in one set of globals; the status function's is last.

    Raises:
        FunctionFailed: a file raised, or does not define the function that the configuration says it does.
    """
    module = functions_module()
    functions = [
        _load(entry, folder, module, ("transceiver", "preprocessing"))
        for entry in configuration.functions
        if entry.active
    ]
    return functions + load_status_function(configuration, folder, module)


def load_status_function(configuration: SimulationConfiguration, folder: Path, module: ModuleType) -> list[Function]:
    """Run the file of the status function, if one is active, in those globals. Raises as `load_functions`."""
    entry = configuration.status_function
    return [_load(entry, folder, module, ("status",))] if entry is not None and entry.active else []


def functions_module() -> ModuleType:
    """The module whose globals all functions of an experiment share, empty."""
    module = ModuleType(FUNCTIONS)
    sys.modules[FUNCTIONS] = module
    return module


def run_file(file: str, folder: Path, module: ModuleType) -> list[Declared]:
    """Run a file of the experiment in the globals of a module; returns what it declares.

    Raises:
        FunctionFailed: it raised.
    """
    path = folder / file
    start_declarations()
    module.__file__ = str(path)
    import_from_beside(path)
    try:
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102  the experiment's own code, which its owner asked to be run
    except (Exception, SystemExit) as error:
        raise function_error(Declared(run_file, name=path.stem, file=file), error, folder) from error
    return declarations()


def _load(entry: FunctionConfiguration, folder: Path, module: ModuleType, kinds: tuple[str, ...]) -> Function:
    declared = [found for found in run_file(entry.file, folder, module) if isinstance(found, Function)]
    if not declared:
        raise FunctionFailed(
            f"{entry.file} defines no function decorated with @TransceiverFunction, @PreprocessingFunction or"
            " @StatusFunction",
            file=entry.file,
        )
    if len(declared) > 1:
        logger.warning("%s declares %d functions; only the last one is used", entry.file, len(declared))
    function = declared[-1]
    function.name = entry.name
    function.file = entry.file
    if function.kind not in kinds:
        raise misuse(
            function, f"is a {function.kind} function; here the configuration expects one that is {' or '.join(kinds)}"
        )
    return function
