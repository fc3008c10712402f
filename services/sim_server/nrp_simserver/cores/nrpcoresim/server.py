"""The server that a simulation is asked of: an NRPCoreSim launched for it, or one that ran already."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from nrp_common.errors import CallNotAllowed, CoreFailed, CoreLost, CoreNotReady
from nrp_simserver.cores.nrpcoresim.connection import Connection
from nrp_simserver.cores.nrpcoresim.messages import pb
from nrp_simserver.cores.nrpcoresim.options import NRPCoreSimOptions
from nrp_simserver.cores.nrpcoresim.program import AddressTaken, Program

log = logging.getLogger(__name__)

ADDRESSES_TRIED: Final = 5
"""So many addresses in a row that somebody else took are no accident."""

STOPPING_S: Final = 0.5
"""How long it may take to note that a loop is to stop."""

LAST_STEP_S: Final = 1.0
"""How long a step that was interrupted may still take before the engines are killed, if they are ours to kill."""

AGAIN_S: Final = 0.05
"""Between two attempts to shut engines down that are in the middle of a step."""


class Server:
    """One server, from `open` to `close`.

    Args:
        options: which one.
        folder: the experiment's folder, absolute.
        config_file: the configuration, relative to `folder`.
        arguments: further options for the command line of one that is launched.
        pass_on_log: whether what that writes goes to this process's stdout, too.
    """

    def __init__(
        self,
        options: NRPCoreSimOptions,
        folder: Path,
        config_file: str,
        arguments: Sequence[str],
        *,
        pass_on_log: bool,
    ) -> None:
        self._options = options
        self._folder = folder
        self._config_file = config_file
        self._arguments = arguments
        self._pass_on_log = pass_on_log
        self._program: Program | None = None
        self._connection: Connection | None = None

    @property
    def is_ours(self) -> bool:
        """Whether it is launched for this simulation, and ended with it."""
        return self._options.address is None

    @property
    def name(self) -> str:
        """What to call it in front of people."""
        return "NRPCoreSim" if self.is_ours else f"NRPCoreSim at {self._options.address}"

    def open(self) -> None:
        """Launch it, or connect to the one that runs.

        Raises:
            EngineUnavailable: there is no such program, or it cannot be started.
            CoreNotReady: it cannot be reached in time.
            CoreLost: it ended instead of getting ready.
        """
        try:
            if self._options.address is not None:
                self._connection = Connection(self._options.address)
                self._connection.wait_until_ready(self._options.start_timeout_s)
            else:
                self._launch_at_some_address()
        except BaseException:
            self.close()
            raise

    def call(self, method: str, request: Any) -> Any:
        """Have it carry out `method`; returns its response.

        Raises:
            CallNotAllowed: its state does not allow it.
            CoreLost: it has ended, or is gone; with the end of its log.
            CoreFailed: it answered with an error.
        """
        assert self._connection is not None
        try:
            return self._connection.call(method, request)
        except CoreLost as lost:
            if self._program is None:
                raise
            end = self._program.await_end()
            what = str(lost) if end is None else f"NRPCoreSim {end} in {method}"
            raise CoreLost(what + self.last_words()) from None

    def stop_loop(self) -> None:
        """Have it end its loop after the step that it is at. Returns when it knows, or does not answer."""
        if self._connection is not None:
            with suppress(CoreFailed, CoreLost, CallNotAllowed):
                self._connection.call("stopLoop", pb.EmptyMessage(), STOPPING_S)

    def last_words(self) -> str:
        """The end of its log, introduced; "" when it is empty or elsewhere."""
        return "" if self._program is None else self._program.last_words()

    def shut_engines_down(self, *, in_a_step: bool) -> None:
        """Have it end its engines. That they did not, or not in time, is logged.

        Args:
            in_a_step: whether a step was interrupted, which it may be at still.
        """
        if self._connection is None or (self._program is not None and self._program.has_ended):
            return
        limit_s = self._options.shutdown_timeout_s
        deadline = time.monotonic() + (min(limit_s, LAST_STEP_S) if in_a_step and self.is_ours else limit_s)
        complaint = ""
        try:
            response = self._shut_down_until(deadline)
        except (CoreFailed, CoreLost, CallNotAllowed) as error:
            complaint = str(error)
        else:
            if response.simState.currentState == "Failed":
                complaint = response.simState.errorMsg or "it does not say why"
        if complaint:
            log.warning("The engines of %s were not shut down in order: %s", self.name, complaint)

    def close(self) -> None:
        """Disconnect. One that was launched ends, and leaves nothing running."""
        connection, self._connection = self._connection, None
        program, self._program = self._program, None
        if connection is not None:
            connection.close()
        if program is not None:
            program.end()

    def _launch_at_some_address(self) -> None:
        for attempt in range(1, ADDRESSES_TRIED + 1):
            try:
                self._launch()
                return
            except AddressTaken as taken:
                if attempt == ADDRESSES_TRIED:
                    raise
                log.warning("%s. Trying another address", taken)
                self.close()

    def _launch(self) -> None:
        options = self._options
        program = Program(
            options.program, self._folder, self._config_file, self._arguments, pass_on_log=self._pass_on_log
        )
        self._program = program
        self._connection = Connection(program.address)
        try:
            self._connection.wait_until_ready(options.start_timeout_s, program.check_start)
        except CoreNotReady as late:
            raise CoreNotReady(f"{late}{program.last_words()}") from None
        program.check_start(closely=True)

    def _shut_down_until(self, deadline: float) -> Any:
        assert self._connection is not None
        while True:
            try:
                return self._connection.call("shutdown", pb.EmptyMessage(), max(0.0, deadline - time.monotonic()))
            except CallNotAllowed:  # it is at the step still
                if time.monotonic() + AGAIN_S > deadline:
                    raise
                time.sleep(AGAIN_S)
