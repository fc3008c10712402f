"""Launchers that place their simulations in a cluster, and what is there of each simulation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from nrp_common.bus import BrokerAddress
from nrp_simserver.placement.kubernetes.job_template import job_name
from tests.kubernetes.api import KubernetesApi
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.objects import Object
from tests.launchers import Launched, RunningLauncher
from tests.storage_server import StorageServer
from tests.waiting import wait_until

SAID = "the script says this"

SPEAKING = f"print('{SAID}', flush=True)\nwhile True:\n    nrp.run_loop()\n"


IMPATIENT = {
    "nrp_simserver.launcher.launcher.ADOPTED_WITHIN_S": 1.0,
    "nrp_simserver.placement.kubernetes.cluster.LOST_AFTER_S": 3.0,
    "nrp_simserver.placement.kubernetes.cluster.RETRY_DELAYS_S": (0.1, 0.2, 0.4),
}
"""How long it is that launchers wait for what these tests have go wrong."""


class ClusterLauncher(RunningLauncher):
    """A launcher with a cluster."""

    def __init__(
        self,
        broker: BrokerAddress,
        storage: StorageServer,
        data: Path,
        cluster: Cluster,
        api: KubernetesApi,
        template: Path,
        **settings: object,
    ) -> None:
        super().__init__(
            broker,
            storage,
            data,
            constants=IMPATIENT,
            placement="kubernetes",
            kubernetes_config=api.kubeconfig,
            kubernetes_job=template,
            kubernetes_volume=data.parent,
            stop_grace_s=3,
            **settings,
        )
        self.cluster = cluster
        self.api = api

    def restore(self) -> None:
        """Have launcher, API and cluster be as they were before any simulation, whatever a test did to them."""
        self.api.heal()
        if not self.api.is_there:
            self.api.start()
        self.cluster.heal()
        if self.process.poll() is not None:
            self.restart()
        self.end_simulations()
        self.assert_cluster_is_empty()
        del self.cluster.nodes[1:]
        self.api.requests.clear()

    def speaking(self, **asked: Any) -> Launched:
        """A simulation whose script has said something, and takes steps."""
        simulation = self.started(SPEAKING, **asked)
        wait_until(lambda: SAID in simulation.own_log)
        return simulation

    def job_of(self, simulation: Launched) -> Object | None:
        return self.cluster.objects.get("Job", self.job_name_of(simulation))

    @staticmethod
    def job_name_of(simulation: Launched) -> str:
        return job_name(simulation.id, simulation.incarnation)

    def pod_of(self, simulation: Launched) -> str:
        """The name of its Pod."""
        wait_until(lambda: self.cluster.pod_of(self.job_name_of(simulation)) is not None)
        pod = self.cluster.pod_of(self.job_name_of(simulation))
        assert pod is not None
        return str(pod["metadata"]["name"])

    def pod_runs(self, simulation: Launched) -> bool:
        pod = self.cluster.pod_of(self.job_name_of(simulation))
        return pod is not None and pod["status"]["phase"] == "Running"

    def waits(self, simulation: Launched) -> list[dict[str, Any]]:
        """What is said on the bus of its waiting, the last one last."""
        messages = (seen.json for seen in self.wire.on(self.topics.status(simulation.id)) if seen.payload)
        return [each["progress"] for each in messages if "queueReason" in each.get("progress", {})]

    def await_reason(self, simulation: Launched, pattern: str) -> None:
        """It is said on the bus why it waits."""
        wait_until(lambda: any(re.search(pattern, each["queueReason"]) for each in self.waits(simulation)), 20)

    def assert_cluster_is_empty(self) -> None:
        """Neither a Job nor a Pod is left."""
        wait_until(lambda: not self.cluster.jobs and not self.cluster.pods, 20)
