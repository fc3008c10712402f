"""Which engines run in processes of their own. The others step in the simulation's process, which costs far less."""

from __future__ import annotations

import logging
from typing import Any

from nrp_simserver.cores import EngineProcesses
from nrp_simserver.cores.embedded.engine import Engine

logger = logging.getLogger(__name__)


def needing_processes(engines: list[Engine[Any]], wanted: EngineProcesses = "needed") -> list[Engine[Any]]:
    """Those that get a process of their own; why is logged.

    `EngineExtraConfigs.OwnProcess` of an engine decides. Where it says nothing, an engine needs one for environment
    variables of its own, for a limit of time, or when its simulator can run only once a process and another one has
    that.

    Args:
        engines: as they were made, in the order of the configuration.
        wanted: what becomes of those that need none.
    """
    apart: list[Engine[Any]] = []
    here: set[str] = set()
    for engine in engines:
        if engine.runs_elsewhere:
            continue
        asked = engine.configuration.own_process
        reason = "EngineExtraConfigs.OwnProcess asks for it" if asked else _need(engine, here)
        if not reason and wanted == "all" and not engine.runs_here_only:
            reason = "all engines do"
        if reason and engine.runs_here_only:
            logger.warning(
                "engine %s runs in the simulation's process, where it has to, although %s", engine.name, reason
            )
        elif reason and asked is not False:
            logger.info("engine %s runs in a process of its own: %s", engine.name, reason)
            apart.append(engine)
            continue
        elif engine.configuration.command_timeout_ns:
            logger.warning("engine %s: EngineCommandTimeout has no effect in the simulation's process", engine.name)
        if engine.once_a_process:
            here.add(engine.once_a_process)
    return apart


def _need(engine: Engine[Any], here: set[str]) -> str:
    """Why an engine needs a process of its own, "" when it does not."""
    if engine.configuration.environment:
        return "it has EngineEnvParams"
    if engine.configuration.command_timeout_ns:
        return "it has an EngineCommandTimeout"
    if engine.once_a_process in here:
        return f"{engine.once_a_process} can run once a process, and another engine has it"
    return ""
