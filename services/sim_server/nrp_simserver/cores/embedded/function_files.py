"""Loading of the files that define an experiment's functions."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType

from nrp_common.errors import FunctionFailed
from nrp_simserver.cores.configuration import FunctionConfiguration, SimulationConfiguration
from nrp_simserver.cores.embedded.functions import Function, declarations, function_error, misuse, start_declarations
from nrp_simserver.cores.embedded.surroundings import import_from_beside

logger = logging.getLogger(__name__)

_MODULE = "nrp_functions"
"""What functions find as their `__name__`."""


def load_functions(configuration: SimulationConfiguration, folder: Path) -> list[Function]:
    """Run the files of all active functions, in order, in one set of globals; the status function's is last.

    Raises:
        FunctionFailed: a file raised, or does not define the function that the configuration says it does.
    """
    module = ModuleType(_MODULE)
    sys.modules[_MODULE] = module
    functions = [
        _load(entry, folder, module, ("transceiver", "preprocessing"))
        for entry in configuration.functions
        if entry.active
    ]
    if configuration.status_function is not None and configuration.status_function.active:
        functions.append(_load(configuration.status_function, folder, module, ("status",)))
    return functions


def _load(entry: FunctionConfiguration, folder: Path, module: ModuleType, kinds: tuple[str, ...]) -> Function:
    path = folder / entry.file
    placeholder = Function("transceiver", "", load_functions, name=entry.name, file=entry.file)
    start_declarations()
    module.__file__ = str(path)
    import_from_beside(path)
    try:
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102  the experiment's own code, which its owner asked to be run
    except (Exception, SystemExit) as error:
        raise function_error(placeholder, error, folder) from error
    declared = declarations()
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
