"""What a simulation says on the bus: state, times, progress, errors, data."""

from __future__ import annotations

from nrp_common.bus import Bus, BusCounts
from nrp_common.lifecycle import SimulationEvent, SimulationState
from nrp_common.messages import (
    LifecycleMessage,
    Progress,
    RuntimeErrorReport,
    ServerPresence,
    Status,
    Task,
    TaskDone,
)
from nrp_common.topics import Topics
from nrp_simserver.server.clock import SimulationClock


class MQTTNotifier:
    """Publishes for one simulation. Nothing here waits for the broker but `publish_data`, which goes at its pace.

    Args:
        bus: the process's connection.
        topics: of the installation.
        simulation_id: of the simulation.
        incarnation: of this start of its server.
    """

    def __init__(self, bus: Bus, topics: Topics, simulation_id: int, incarnation: str) -> None:
        self._bus = bus
        self._topics = topics
        self._simulation_id = simulation_id
        self._incarnation = incarnation
        self._status_topic = topics.status(simulation_id)
        self._presence_topic = topics.server_presence(incarnation)

    @property
    def bus_counts(self) -> BusCounts:
        """What befell the connection so far."""
        return self._bus.counts

    def appear(self) -> None:
        """Say that the server is there, now and after each reconnect."""
        self._bus.retain(self._presence_topic, ServerPresence(online=True, simulation_id=self._simulation_id))

    def disappear(self) -> None:
        """Take back what `appear` said."""
        self._bus.forget(self._presence_topic)

    def transition(self, source: SimulationState, event: SimulationEvent, target: SimulationState, seq: int) -> None:
        """Tell of a transition; retained, and said again after each reconnect."""
        message = LifecycleMessage(
            source_node=f"nrp_simulation_server_{self._simulation_id}",
            source_state=source,
            event=event,
            target_state=target,
            incarnation=self._incarnation,
            seq=seq,
        )
        self._bus.retain(self._topics.lifecycle(self._simulation_id), message)

    def yield_lifecycle(self) -> None:
        """Leave the lifecycle topic to whoever said the final word: say nothing there again, and clear nothing."""
        self._bus.forget(self._topics.lifecycle(self._simulation_id), clear=False)

    def status(self, state: SimulationState, clock: SimulationClock) -> None:
        """Tell times and state."""
        status = Status(
            real_time=clock.real_time,
            simulation_time=clock.simulation_time,
            state=state,
            simulation_time_left=clock.simulation_time_left,
        )
        self._bus.publish(self._status_topic, status, retain=True)

    def progress(self, task: str, subtask: str = "", *, index: int = 0, count: int = 0) -> None:
        """Tell what the simulation is at while it cannot take commands: subtask `index` (from 0) of `count`."""
        step = Task(task=task, subtask=subtask, number_of_subtasks=count, subtask_index=index)
        self._bus.publish(self._status_topic, Progress(progress=step))

    def progress_done(self, task: str) -> None:
        """Tell that `task` is finished."""
        self._bus.publish(self._status_topic, Progress(progress=TaskDone(task=task)))

    def runtime_error(self, report: RuntimeErrorReport) -> None:
        """Tell what went wrong in the experiment."""
        self._bus.publish(self._topics.runtime_error(self._simulation_id), report, qos=1)

    def publish_data(self, leaf: str, payload: bytes, qos: int, retain: bool, *, patient: bool = True) -> None:
        """Publish streamed data below the simulation's topic: a `DataPublisher` for the core.

        What is retained is said again after each reconnect; an empty payload takes it back. For anything else this
        waits while much is under way already, unless it is not `patient` (`Bus.stream`).
        """
        topic = self._topics.simulation(self._simulation_id, leaf)
        if not retain and qos:
            self._bus.stream(topic, payload, patient=patient)
        elif not retain:
            self._bus.publish(topic, payload)
        elif payload:
            self._bus.retain(topic, payload)
        else:
            self._bus.forget(topic)
