"""Settings of the launcher and of the cores, from environment variables `NRP_*`."""

from __future__ import annotations

import re
import shlex
import socket
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import (
    Field,
    Json,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from nrp_common.settings import CommonSettings, Settings
from nrp_simserver.cores import EngineProcesses
from nrp_simserver.cores.nrpcoresim.options import NRPCoreSimOptions
from nrp_simserver.cores.selection import Kind
from nrp_simserver.simulation_folder import BusAccess

GATEWAY_ON_THIS_MACHINE: Final = "http://127.0.0.1:8090"
"""Where a gateway with the default settings serves its own storage."""


OnShutdown = Literal["stop", "leave"]
CredentialsPolicy = Literal["auto", "required", "none"]

PlacementKind = Literal["local", "slurm", "kubernetes"]


class CoreSettings(Settings):
    """What runs an experiment, be it in a simulation server or in the process of `nrp run --local`."""

    core: Kind = "auto"
    """The co-simulation core to use: `auto`, or one by name."""
    engine_processes: EngineProcesses = "needed"
    """`all` to have each engine of the embedded core run in a process of its own, also those that need none."""
    nrpcoresim: str = "NRPCoreSim"
    """The original nrp-core: a program on the PATH, or its path."""
    nrpcoresim_address: str | None = None
    """`host:port` of an NRPCoreSim that runs as a server already, to be driven instead of one launched."""
    nrpcoresim_timeout_s: PositiveFloat = 60.0
    """How long NRPCoreSim may take until it can be reached."""
    nrpcoresim_broker: str | None = None
    """`host:port` where NRPCoreSim itself finds MQTT 3.1.1, without TLS and password; the broker's when not given, with
    a way to it where it is secured."""
    stop_grace_s: PositiveFloat = 5.0
    """How long a simulation may take to stop before its processes are killed."""

    @field_validator("nrpcoresim_address", "nrpcoresim_broker")
    @classmethod
    def _are_addresses(cls, address: str | None) -> str | None:
        if address is not None and not re.fullmatch(r"[^\s/]+:[0-9]{1,5}", address):
            raise ValueError(f"'{address}' is no host:port")
        return address

    @property
    def nrpcoresim_options(self) -> NRPCoreSimOptions:
        """Which NRPCoreSim runs what needs one."""
        return NRPCoreSimOptions(
            program=str(Path(self.nrpcoresim).absolute()) if "/" in self.nrpcoresim else self.nrpcoresim,
            address=self.nrpcoresim_address,
            start_timeout_s=self.nrpcoresim_timeout_s,
            shutdown_timeout_s=self.stop_grace_s / 2,  # what is left is for the script and for killing
            broker=self.nrpcoresim_broker,
        )


class LauncherSettings(CoreSettings, CommonSettings):
    """What the launcher can be told."""

    launcher_name: str = Field(default_factory=socket.gethostname, validate_default=True)
    """Tells launchers apart on the bus; the host's name when not given."""
    share_data_directory: bool = False
    """For launchers that are copies of one another, as those of a scaled container are: each takes the first folder in
    the data directory that no other one uses, `1`, `2` and so on, and adds its number to its name."""
    capacity: PositiveInt | None = None
    """How many simulations may run at once; from the machine's cores and memory when not given."""
    labels: str = ""
    """What this machine has that others may not, separated by commas, such as `gpu,gazebo`. Launches ask for it."""
    cores: PositiveFloat | None = None
    """How many cores simulations may ask for, together; the machine's when not given."""
    memory_mb: PositiveInt | None = None
    """How much memory simulations may ask for, together; the machine's when not given."""
    initialise_timeout_s: PositiveFloat = timedelta(minutes=10).total_seconds()
    """How long a simulation may take to get ready before it is failed."""
    idle_servers: NonNegativeInt = 2
    """How many simulation servers are kept ready for the next launches; each costs some MB."""
    on_shutdown: OnShutdown = "stop"
    """What a launcher that is told to end does: `stop` its simulations, or `leave` them running for the next one."""
    orphaned_s: NonNegativeFloat = timedelta(minutes=10).total_seconds()
    """How long simulations run on without a launcher before they are ended."""
    python: Path | None = None
    """The interpreter that runs simulations, with this distribution installed; the launcher's own when not given."""
    simulation_credentials: CredentialsPolicy = "auto"
    """Whether each simulation gets credentials of its own at the broker (Mosquitto's dynamic security): `required`, or
    no simulation runs; `auto`: when the launcher has a user name and the broker keeps credentials, else simulations use
    the launcher's own; `none`: they use the launcher's own."""
    simulation_topics: str = ""
    """Topic filters, separated by commas, that simulations with credentials of their own may use beside their own
    topics, such as `robot/#`: for MQTT nodes."""
    status_interval_s: PositiveFloat = 1.0
    """Time between two status messages of a simulation."""
    metrics_port: int | None = Field(None, ge=1, le=65535)
    """Where Prometheus finds what this launcher and its simulations count, at `/metrics`; nowhere when not given."""
    metrics_host: str = "127.0.0.1"
    """Goes with the port."""
    log_limit_mb: PositiveInt = 512
    """A simulation that writes more than this to its log is ended."""
    limit_real_time_s: NonNegativeFloat = 0.0
    """How long a simulation may be `started`, in seconds, before a reset and after it; 0 for as long as it likes."""
    limit_simulated_time_s: NonNegativeFloat = 0.0
    """How many simulated seconds a simulation may reach; 0 for any number."""
    limit_memory_mb: NonNegativeInt = 0
    """How much memory all processes of a simulation may use, together; 0 for any amount."""
    limit_cpu_time_s: NonNegativeFloat = 0.0
    """How many seconds of a core all processes of a simulation may take, together; 0 for any number."""
    limit_processes: NonNegativeInt = 256
    """How many processes a simulation may have at once; 0 for any number."""
    limit_disk_mb: NonNegativeInt = 10_000
    """How large the folder of a simulation may become, with the experiment, results and logs; 0 for any size."""
    limit_free_disk_mb: NonNegativeInt = 500
    """What is kept free of the disk that the data directory is on: with less no simulation is launched, and one that
    takes what is missing is failed."""
    idle_timeout_s: NonNegativeFloat = 0.0
    """After how long without a command a simulation is stopped that is paused or completed; 0 for never."""
    placement: PlacementKind = "local"
    """Where simulation servers run: on this machine, as jobs of a Slurm cluster, or of a Kubernetes cluster."""
    slurm_partition: str = ""
    """The partition of jobs whose launch names none; several with commas between. Slurm's default when not given."""
    slurm_account: str = ""
    """The account that is charged for jobs whose launch names none."""
    slurm_time_limit_s: NonNegativeFloat = 0.0
    """The time limit of jobs whose launch names none, in seconds of real time; 0 for the partition's."""
    slurm_memory_mb: NonNegativeInt = 0
    """The memory of jobs whose launch asks for none and has no limit of memory; 0 for what the partition gives."""
    slurm_options: str = ""
    """Further options of `sbatch` for all jobs, as in a shell, such as `--qos=interactive --constraint=avx2`."""
    slurm_shared: bool = False
    """That nodes see the data directory although its file system is this machine's own, which exports it."""
    kubernetes_job: Path | None = None
    """A Job in YAML that those of simulations are made of; see docs/many_machines.md."""
    kubernetes_namespace: str = ""
    """Of the Jobs; that of the launcher's own Pod, or of the kubeconfig's context, when not given."""
    kubernetes_config: Path | None = None
    """A kubeconfig for a launcher outside of the cluster; what `kubectl` would take when not given."""
    kubernetes_context: str = ""
    """In the kubeconfig; its current one when not given."""
    kubernetes_volume: Path | None = None
    """Where this launcher has the volume that it shares with Jobs; the data directory, which has to be on it, when not
    given."""
    kubernetes_node_selectors: Json[dict[str, dict[str, str]]] = Field("{}", validate_default=True)
    """Labels of nodes by labels of launches, as JSON: `{"gpu": {"accelerator": "nvidia-l4"}}` sends launches that ask
    for `gpu` there, and says that this launcher has it."""
    kubernetes_gpu_resource: str = "nvidia.com/gpu"
    """What the cluster calls a GPU."""
    cgroup: str = "auto"
    """The cgroup (version 2) in which the launcher makes one for each simulation: its path, `auto` for the one that was
    delegated to the launcher, `none` to look at the processes instead."""

    @field_validator("launcher_name")
    @classmethod
    def _fit_in_a_topic(cls, name: str) -> str:
        if not name or set(name) & set("/+#\0"):
            raise ValueError("a launcher's name is part of its topics: it must not be empty or contain / + #")
        return name

    @field_validator("slurm_options")
    @classmethod
    def _be_options(cls, options: str) -> str:
        try:
            words = shlex.split(options)
        except ValueError as error:
            raise ValueError(f"cannot be taken apart as a shell does: {error}") from error
        if any(each[:2] in ("-a", "-W") or each.partition("=")[0] in ("--array", "--wait", "--wrap") for each in words):
            raise ValueError("a simulation is one job, which is not waited for: --array, --wait and --wrap cannot be")
        return options

    @field_validator("cgroup")
    @classmethod
    def _be_a_path_or_a_word(cls, cgroup: str) -> str:
        if cgroup not in ("auto", "none") and not cgroup.startswith("/"):
            raise ValueError("must be an absolute path, auto or none")
        return cgroup

    @field_validator("simulation_topics")
    @classmethod
    def _be_nobody_elses(cls, filters: str) -> str:
        for each in _separated(filters):
            if each[0] in "#+$/" or any(level.startswith("nrp_") or level == "" for level in each.split("/")):
                raise ValueError(f"'{each}' must begin with a name of its own, and no topic of ours can be below it")
        return filters

    @model_validator(mode="after")
    def _have_credentials_to_make_others_with(self) -> Self:
        if self.simulation_credentials == "required" and self.mqtt_username is None:
            raise ValueError("NRP_SIMULATION_CREDENTIALS=required needs NRP_MQTT_USERNAME: a launcher's credentials")
        return self

    @property
    def further_topics(self) -> tuple[str, ...]:
        """What simulations may use beside their own topics."""
        return tuple(_separated(self.simulation_topics))

    @property
    def keeps_credentials(self) -> bool:
        """Whether simulations get credentials of their own, if the broker keeps any."""
        return self.mqtt_username is not None and self.simulation_credentials != "none"

    @property
    def own_labels(self) -> list[str]:
        """What this machine has."""
        labels = _separated(self.labels)
        return [*labels, *(each for each in self.kubernetes_node_selectors if each not in labels)]

    @property
    def storage(self) -> str:
        """The Storage Server's base URL."""
        return self.storage_url or GATEWAY_ON_THIS_MACHINE

    @property
    def bus_access_of_servers(self) -> BusAccess:
        """How simulation servers get onto the bus; without credentials when each is given its own."""
        broker = self.broker
        return BusAccess(
            broker_host=broker.host,
            broker_port=broker.port,
            broker_username=None if self.keeps_credentials else broker.username,
            broker_password=None if self.keeps_credentials else broker.password,
            broker_tls=broker.tls,
            broker_ca_file=broker.ca_file,
            mqtt_prefix=self.topics.prefix,
        )

    @property
    def heartbeat_file(self) -> Path:
        """What jobs on other machines see this launcher live by, absolute."""
        return self.data_directory.absolute() / "heartbeat"

    @property
    def spawners_directory(self) -> Path:
        """Where each process that forks simulation servers has its folder, absolute."""
        return self.data_directory.absolute() / "spawners"

    @property
    def simulations_directory(self) -> Path:
        """Where each simulation has its folder while it runs, absolute."""
        return self.data_directory.absolute() / "simulations"

    @property
    def spool_directory(self) -> Path:
        """Where archives wait until the Storage Server has taken them, absolute."""
        return self.data_directory.absolute() / "spool"

    @property
    def clone_cache_directory(self) -> Path:
        """Where files of experiments are kept for their next clone, absolute."""
        return self.data_directory.absolute() / "clones"


def _separated(listed: str) -> list[str]:
    return [each.strip() for each in listed.split(",") if each.strip()]
