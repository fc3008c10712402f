"""Where a launcher may make cgroups, and what is written into and read from them: here a tree of plain files."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nrp_simserver.resources import cgroups
from nrp_simserver.resources.cgroups import CgroupTree, NoCgroups, SimulationCgroup, claim

FILES = (
    "cgroup.controllers", "cgroup.kill", "cgroup.procs", "cgroup.subtree_control", "cgroup.type", "cpu.stat",
    "memory.events", "memory.max", "memory.oom.group", "memory.swap.max", "pids.max",
)  # fmt: skip


class Hierarchy:
    """A hierarchy of cgroups, and how the kernel tells a process of it. Each cgroup that is made has the usual files.

    Attributes:
        mount: its root.
        proc: where the kernel tells.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mount = folder / "cgroup"
        self.proc = folder / "proc"
        self.proc.mkdir()
        make_folder, remove_folder = Path.mkdir, Path.rmdir

        def mkdir(path: Path, *args: object, **options: object) -> None:
            make_folder(path, *args, **options)  # type: ignore[arg-type]
            if path.is_relative_to(self.mount):
                self._fill(path)

        def rmdir(path: Path) -> None:
            for file in FILES:
                (path / file).unlink(missing_ok=True)
            remove_folder(path)

        monkeypatch.setattr(Path, "mkdir", mkdir)
        monkeypatch.setattr(Path, "rmdir", rmdir)
        self.mount.mkdir()
        (self.mount / "cgroup.type").unlink()

    def _fill(self, path: Path) -> None:
        for file in FILES:
            (path / file).touch()
        (path / "cgroup.controllers").write_text("cpu memory pids\n")

    def put_process_in(self, path: str, *, root: str = "/") -> Path:
        """This process's cgroup is `path` from now on."""
        (self.proc / "cgroup").write_text(f"9:name=systemd:/\n0::{path}\n")
        (self.proc / "mountinfo").write_text(
            "22 1 0:21 / /proc rw shared:2 - proc proc rw\n"
            f"31 23 0:28 {root} {self.mount} rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
        )
        own = self.mount / Path(path).relative_to(root)
        for each in (*reversed(own.parents), own):
            if each.is_relative_to(self.mount) and not each.exists():
                each.mkdir()
        return own

    def claim(self, setting: str = "auto", *, delegated: Path | None = None) -> CgroupTree:
        return claim(setting, proc=self.proc, is_delegated=lambda path: path == delegated)


@pytest.fixture
def hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hierarchy:
    monkeypatch.setattr(cgroups, "SYSTEMD", tmp_path)  # which exists
    return Hierarchy(tmp_path, monkeypatch)


# -- where -----------------------------------------------------------------------------------------------------------


def test_delegated_cgroup_is_used_and_what_is_in_it_moved_below(
    hierarchy: Hierarchy, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = hierarchy.put_process_in("/system.slice/nrp.service")
    (own / "cgroup.procs").write_text("41\n42\n")
    moved: list[tuple[str, str]] = []
    write = cgroups._write

    def note(file: Path, text: str) -> None:
        if file.name == "cgroup.procs":
            moved.append((file.parent.name, text))
            (own / "cgroup.procs").write_text("")
        write(file, text)

    monkeypatch.setattr(cgroups, "_write", note)
    tree = hierarchy.claim(delegated=own)
    assert tree.of("x").path == own / "nrp_simulation_x"
    assert {("nrp_services", "41"), ("nrp_services", "42")} <= set(moved)
    assert (own / "cgroup.subtree_control").read_text() == "+memory +pids"
    assert sorted(each.name for each in own.iterdir() if each.is_dir()) == ["nrp_services"]  # the trial is over


def test_delegated_cgroup_above_is_used(hierarchy: Hierarchy) -> None:
    own = hierarchy.put_process_in("/system.slice/nrp.service/launcher")
    assert hierarchy.claim(delegated=own.parent).of("x").path.parent == own.parent


@pytest.mark.parametrize("parent", ["/nrp.service", "/"])
def test_cgroup_that_an_earlier_launcher_prepared_is_used_as_it_is(
    hierarchy: Hierarchy, parent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "SYSTEMD", tmp_path / "not there")
    own = hierarchy.put_process_in(f"{parent}/nrp_services".replace("//", "/"))
    (own.parent / "cgroup.subtree_control").write_text("memory pids\n")
    (own.parent / "cgroup.procs").write_text("17\n")
    tree = hierarchy.claim(delegated=hierarchy.mount / "nrp.service")
    assert tree.of("x").path.parent == own.parent
    assert (own.parent / "cgroup.subtree_control").read_text() == "memory pids\n"
    assert (own / "cgroup.procs").read_text() == "0"  # back from the trial


def test_what_was_not_delegated_is_left_alone(hierarchy: Hierarchy) -> None:
    own = hierarchy.put_process_in("/user.slice/session-3.scope")
    with pytest.raises(NoCgroups, match=r"session-3\.scope is not delegated to the launcher"):
        hierarchy.claim()
    assert not any(each.is_dir() for each in own.iterdir())


def test_root_is_used_where_nobody_else_keeps_cgroups(
    hierarchy: Hierarchy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hierarchy.put_process_in("/")
    with pytest.raises(NoCgroups):
        hierarchy.claim()
    monkeypatch.setattr(cgroups, "SYSTEMD", tmp_path / "not there")
    assert hierarchy.claim().of("x").path.parent == hierarchy.mount


def test_container_sees_its_own_part_only(hierarchy: Hierarchy, tmp_path: Path) -> None:
    own = hierarchy.put_process_in("/docker/abc/launcher", root="/docker/abc")
    assert own == hierarchy.mount / "launcher"
    assert hierarchy.claim(delegated=own).of("x").path.parent == own


def test_path_of_the_settings_is_used(hierarchy: Hierarchy) -> None:
    hierarchy.put_process_in("/elsewhere")
    given = hierarchy.mount / "nrp"
    given.mkdir()
    assert hierarchy.claim(str(given)).of("x").path.parent == given


def test_path_of_the_settings_that_is_none_is_told(hierarchy: Hierarchy) -> None:
    hierarchy.put_process_in("/elsewhere")
    with pytest.raises(NoCgroups, match=r"/not-there/cgroup\.controllers: No such file or directory"):
        hierarchy.claim("/not-there")


def test_missing_controller_is_told(hierarchy: Hierarchy) -> None:
    own = hierarchy.put_process_in("/nrp.service")
    (own / "cgroup.controllers").write_text("cpu pids\n")
    with pytest.raises(NoCgroups, match="has no controller for memory"):
        hierarchy.claim(delegated=own)


def test_without_any_there_are_none(hierarchy: Hierarchy) -> None:
    with pytest.raises(NoCgroups, match="there are none of version 2"):
        hierarchy.claim()


def test_process_enters_by_itself(hierarchy: Hierarchy) -> None:
    cgroups.enter(hierarchy.mount)
    assert (hierarchy.mount / "cgroup.procs").read_text() == "0"


# -- a simulation's --------------------------------------------------------------------------------------------------


@pytest.fixture
def made(hierarchy: Hierarchy) -> Callable[..., SimulationCgroup]:
    def made(memory: int | None = None, processes: int | None = None) -> SimulationCgroup:
        cgroup = CgroupTree(hierarchy.mount).of("x")
        cgroup.make(memory, processes)
        return cgroup

    return made


def test_limits_are_the_kernels(made: Callable[..., SimulationCgroup]) -> None:
    path = made(memory=300 * 2**20, processes=256).path
    assert {file: (path / file).read_text() for file in FILES if (path / file).read_text()} == {
        "cgroup.controllers": "cpu memory pids\n",
        "memory.max": "314572800",
        "memory.oom.group": "1",
        "memory.swap.max": "0",
        "pids.max": "2048",
    }


def test_few_processes_may_still_have_threads(made: Callable[..., SimulationCgroup]) -> None:
    assert (made(processes=2).path / "pids.max").read_text() == "256"


def test_what_is_not_limited_is_not_written(made: Callable[..., SimulationCgroup]) -> None:
    path = made().path
    assert {(path / file).read_text() for file in ("memory.max", "memory.oom.group", "pids.max")} == {""}


def test_cgroup_that_is_gone_uses_nothing(tmp_path: Path) -> None:
    gone = SimulationCgroup(tmp_path / "gone")
    assert (gone.processes(), gone.cpu_time(), gone.ran_out_of_memory) == (0, 0.0, False)
    gone.end()


def test_end_asks_the_kernel_to_kill_and_removes_it(made: Callable[..., SimulationCgroup]) -> None:
    cgroup = made()
    (cgroup.path / "cgroup.kill").write_text("")
    cgroup.kill()
    assert (cgroup.path / "cgroup.kill").read_text() == "1"
    cgroup.end()
    assert not cgroup.path.exists()


def test_older_kernel_has_each_process_killed(made: Callable[..., SimulationCgroup]) -> None:
    cgroup = made()
    (cgroup.path / "cgroup.kill").unlink()
    sleeping = subprocess.Popen(["sleep", "600"])
    (cgroup.path / "cgroup.procs").write_text(f"{sleeping.pid}\n")
    cgroup.end()
    assert sleeping.wait(10) == -9
    assert not cgroup.path.exists()


# -- the real kernel -------------------------------------------------------------------------------------------------


def test_real_cgroup_ends_with_all_that_is_in_it() -> None:
    try:
        tree = claim("auto")
    except NoCgroups as reason:
        pytest.skip(f"no cgroups here: {reason}")
    cgroup = tree.of("test")
    cgroup.make(memory=2**30, processes=50)
    sleeping = subprocess.Popen(
        ["sh", "-c", f"echo 0 > {cgroup.path}/cgroup.procs; sleep 600 & setsid sleep 600 & echo ready; wait"],
        stdout=subprocess.PIPE,
    )
    assert sleeping.stdout is not None
    with sleeping.stdout:
        sleeping.stdout.readline()
        assert cgroup.processes() == 3
        cgroup.end()
    assert sleeping.wait(10) == -9
    assert not cgroup.path.exists()
