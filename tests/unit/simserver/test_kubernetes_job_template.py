"""The Job of a simulation server: what a site's template says, and what is this simulation's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from nrp_common.errors import SettingsError
from nrp_common.messages import Launch, Wishes
from nrp_simserver import processes
from nrp_simserver.placement.kubernetes.job_template import JobTemplate, label_value, read_template
from nrp_simserver.placement.placement import ServerOrder
from nrp_simserver.resources.limits import Limit, Limited
from nrp_simserver.simulation_folder import ServerSetup

INCARNATION = "4d3c269677e640aaa96539ccaadfda18"

VOLUME = Path("/nrp")
DATA = VOLUME / "launcher-0"
FOLDER = DATA / "simulations" / "7"


def manifest(**pod: Any) -> dict[str, Any]:
    resources = {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "4Gi"}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"labels": {"site": "lab"}},
        "spec": {
            "ttlSecondsAfterFinished": 60,
            "template": {
                "spec": {
                    "containers": [{"name": "simulation", "image": "nrp-launcher:1", "resources": resources}],
                    "volumes": [{"name": "simulations", "persistentVolumeClaim": {"claimName": "nrp"}}],
                    **pod,
                }
            },
        },
    }


def template(of: dict[str, Any] | None = None, launcher: str = "launcher-0") -> JobTemplate:
    return JobTemplate(
        of or manifest(),
        volume_path=VOLUME,
        launcher=launcher,
        node_selectors={"gpu": {"accelerator": "l4"}},
        gpu_resource="nvidia.com/gpu",
        stop_grace_s=5,
    )


def job(
    wishes: Wishes | None = None, limits: dict[Limited, Limit] | None = None, of: dict[str, Any] | None = None
) -> dict[str, Any]:
    setup = ServerSetup(
        simulation_id=7,
        incarnation=INCARNATION,
        folder=FOLDER,
        configuration="simulation_config.json",
        main_script="main_script.py",
        broker_host="broker",
        broker_port=1883,
    )
    launch = Launch(
        deadline=0,
        simulation_id=7,
        experiment_id="husky",
        configuration="simulation_config.json",
        main_script="main_script.py",
        owner="somebody",
        wishes=wishes or Wishes(),
    )
    order = ServerOrder(setup, launch, limits or {})
    made = template(of).job_for(order, FOLDER / "job_order.json", DATA / "heartbeat")
    kubernetes_validate.validate(made, "1.33", strict=True)
    return made


def container_of(made: dict[str, Any]) -> dict[str, Any]:
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def test_name_is_that_of_the_incarnation_so_that_it_is_made_once() -> None:
    assert job()["metadata"]["name"] == f"nrp-7-{INCARNATION}" == job(Wishes(cores=3))["metadata"]["name"]


def test_job_is_tried_once_and_its_pod_never_started_again() -> None:
    spec = job()["spec"]
    assert (spec["backoffLimit"], spec["completions"], spec["parallelism"]) == (0, 1, 1)
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["podFailurePolicy"]["rules"][0]["action"] == "FailJob"
    assert spec["ttlSecondsAfterFinished"] == 60


def test_job_and_pod_are_found_by_launcher_and_incarnation() -> None:
    made = job()
    for each in (made, made["spec"]["template"]):
        assert each["metadata"]["labels"]["nrp-backend/incarnation"] == INCARNATION
        assert each["metadata"]["labels"]["nrp-backend/launcher"] == "launcher-0"
        assert each["metadata"]["annotations"]["nrp-backend/experiment"] == "husky"
    assert made["metadata"]["labels"]["site"] == "lab"
    assert template().selector == "nrp-backend/launcher=launcher-0"


@pytest.mark.parametrize("name", ["lab 1", "-", "a" * 64, "käfer"])
def test_name_that_can_be_no_label_stands_for_itself_all_the_same(name: str) -> None:
    assert label_value(name) != label_value(name + "x")
    assert label_value(name).isalnum()
    assert template(launcher=name).selector == f"nrp-backend/launcher={label_value(name)}"


def test_simulation_sees_its_own_folder_and_no_other() -> None:
    assert container_of(job())["volumeMounts"] == [
        {"name": "simulations", "mountPath": str(FOLDER), "subPath": "launcher-0/simulations/7"},
        {
            "name": "simulations",
            "mountPath": str(DATA / "heartbeat"),
            "subPath": "launcher-0/heartbeat",
            "readOnly": True,
        },
    ]


def test_command_of_the_template_comes_before_the_server_s() -> None:
    of = manifest()
    container_of(of)["command"] = ["nice", "-n", "5"]
    command = container_of(job(of=of))["command"]
    assert command[:3] == ["nice", "-n", "5"]
    assert command[-3:] == ["nrp_simserver.placement.job", str(FOLDER / "job_order.json"), f"nrp-7-{INCARNATION}"]
    assert str(FOLDER / "simulation_7.log") in command


def test_processes_can_be_marked() -> None:
    of = manifest()
    container_of(of)["env"] = [{"name": "SITE", "value": "lab"}]
    environment = {each["name"]: each["value"] for each in container_of(job(of=of))["env"]}
    assert environment == {"SITE": "lab", processes.MARK: processes.UNMARKED}


@pytest.mark.parametrize(
    ("wishes", "limits", "requests", "most"),
    [
        (Wishes(), {}, {"cpu": "250m", "memory": "256Mi"}, {"cpu": "1", "memory": "4Gi"}),
        (Wishes(cores=2.5), {}, {"cpu": "2500m", "memory": "256Mi"}, {"memory": "4Gi"}),
        (Wishes(memory_mb=8000), {}, {"cpu": "250m", "memory": "8000Mi"}, {"cpu": "1"}),
        (
            Wishes(gpus=2),
            {},
            {"cpu": "250m", "memory": "256Mi", "nvidia.com/gpu": "2"},
            {"cpu": "1", "memory": "4Gi", "nvidia.com/gpu": "2"},
        ),
        (
            Wishes(memory_mb=500),
            {Limited.MEMORY: Limit(1000, "memoryMB")},
            {"cpu": "250m", "memory": "500Mi"},
            {"cpu": "1", "memory": "1064Mi"},
        ),
        (
            Wishes(),
            {Limited.MEMORY: Limit(100, "memoryMB")},
            {"cpu": "250m", "memory": "164Mi"},
            {"cpu": "1", "memory": "164Mi"},
        ),
    ],
)
def test_resources_are_what_is_asked_for_else_what_is_usual(
    wishes: Wishes, limits: dict[Limited, Limit], requests: dict[str, str], most: dict[str, str]
) -> None:
    assert container_of(job(wishes, limits))["resources"] == {"requests": requests, "limits": most}


@pytest.mark.parametrize(
    ("usual", "asked", "most"), [(None, 90.5, 91), (60, 90.5, 60), (120, 90.5, 91), (60, None, 60)]
)
def test_time_limit_is_the_stricter_one_and_counts_from_when_the_pod_runs(
    usual: int | None, asked: float | None, most: int
) -> None:
    made = job(Wishes(time_limit=asked), of=manifest(**({} if usual is None else {"activeDeadlineSeconds": usual})))
    assert made["spec"]["template"]["spec"]["activeDeadlineSeconds"] == most
    assert "activeDeadlineSeconds" not in made["spec"]


def test_labels_of_the_launch_choose_nodes_beside_what_the_template_says() -> None:
    made = job(Wishes(labels=["gpu", "other"]), of=manifest(nodeSelector={"site": "lab"}))
    assert made["spec"]["template"]["spec"]["nodeSelector"] == {"site": "lab", "accelerator": "l4"}


def test_pod_has_longer_to_end_than_its_server() -> None:
    assert job()["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 5


@pytest.mark.parametrize(
    ("pod", "complaint"),
    [
        ({"containers": [{"name": "other", "image": "x"}]}, "no container 'simulation'"),
        ({"volumes": []}, "no volume 'simulations'"),
        ({"containers": None}, "incomplete"),
    ],
)
def test_template_that_lacks_something_is_refused(pod: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        template(manifest(**pod))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("kind: Pod", "is no Job of batch/v1"), ("- a", "is no Job"), ("a: [", "cannot be read"), ("", "is no Job")],
)
def test_file_that_holds_no_template_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(SettingsError, match=complaint):
        read_template(tmp_path / "job.yaml")


def test_template_need_not_be_named(tmp_path: Path) -> None:
    unnamed = manifest()
    del unnamed["metadata"]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(unnamed))
    assert template(read_template(tmp_path / "job.yaml")).has_image
