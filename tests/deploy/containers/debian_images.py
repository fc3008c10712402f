"""Stand-ins for the base images, made of the packages of the Debian machine that the tests run on.

Where no registry can be reached the images that deploy/ names cannot be had. These offer what is relied on of them: the
same programs in the same places, run by the same users.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

MOSQUITTO_USER = 1883
POSTGRESQL_USER = 999
NOBODY = 65534

_FIELDS = ("binary:Package", "Package", "Essential", "Priority", "Pre-Depends", "Depends", "Provides")
_LEFT_OUT = re.compile(r"/usr/(share/(doc|man|locale|info|lintian|bug|zoneinfo)|lib/systemd|include)/|.*/__pycache__/")
_GENERATED = ("/etc/ld.so.cache", "/etc/ssl/certs", "/etc/alternatives", "/etc/nsswitch.conf", "/usr/lib/ssl")
_EMPTY = ("tmp", "var/tmp", "root", "proc", "sys", "dev", "run", "home", "etc")
_ACCOUNTS = """\
root:x:0:0:root:/root:/bin/sh
mosquitto:x:1883:1883::/var/empty:/usr/sbin/nologin
postgres:x:999:999::/var/lib/postgresql:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""

POSTGRESQL_ENTRYPOINT = """\
#!/bin/sh
# What deploy/docker-compose.yml relies on of the official image: the database and its user are made at the first start.
set -eu
programs=$(echo /usr/lib/postgresql/*/bin)
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    "$programs/initdb" --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth=scram-sha-256 \\
        --encoding=UTF8 --locale=C --no-sync
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | "$programs/postgres" --single -D "$PGDATA" postgres
fi
exec "$programs/postgres" -D "$PGDATA" -h '*' -k /tmp
"""


class NoImages(Exception):
    """Stand-ins cannot be made here; says why."""


@dataclass(frozen=True)
class StandIn:
    """What is in a stand-in, beside the packages that every Debian has.

    Attributes:
        packages: that are installed on this machine; with what they depend on.
        links: symbolic links, by their paths.
        folders: that belong to these users, by their paths.
        programs: scripts, by their paths.
        unpacked: a folder whose files are added, too.
        changes: instructions as in a Dockerfile.
    """

    packages: tuple[str, ...]
    links: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, int] = field(default_factory=dict)
    programs: Mapping[str, str] = field(default_factory=dict)
    unpacked: Path | None = None
    changes: tuple[str, ...] = ()


PYTHON = StandIn(
    ("python3", "python3-venv", "python3-pip", "ca-certificates", "openssl"),
    links={"usr/local/bin/python": "/usr/bin/python3", "usr/local/bin/pip": "/usr/bin/pip3"},
)

_PLUGIN = "mosquitto_dynamic_security.so"

MOSQUITTO = StandIn(
    ("mosquitto", "mosquitto-clients"),
    links={
        f"usr/lib/{_PLUGIN}": f"/usr/lib/{platform.machine()}-linux-gnu/{_PLUGIN}"
    },  # where the official image has it
    folders={"mosquitto": 1883, "mosquitto/config": 1883, "mosquitto/data": 1883, "mosquitto/log": 1883},
    changes=('CMD ["/usr/sbin/mosquitto", "-c", "/mosquitto/config/mosquitto.conf"]',),
)


def postgresql() -> StandIn:
    """Debian's PostgreSQL, started like the official image."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    if programs is None:
        raise NoImages("PostgreSQL is not installed")
    return StandIn(
        (f"postgresql-{programs.parent.name}",),
        links={"usr/local/bin/pg_isready": str(programs / "pg_isready")},
        folders={"var/lib/postgresql": POSTGRESQL_USER, "var/lib/postgresql/data": POSTGRESQL_USER},
        programs={"usr/local/bin/docker-entrypoint.sh": POSTGRESQL_ENTRYPOINT},
        changes=('ENTRYPOINT ["docker-entrypoint.sh"]',),
    )


def prometheus(folder: Path) -> StandIn:
    """Debian's Prometheus, which is not installed on this machine, only unpacked into `folder`."""
    if os.getuid() != 0:
        raise NoImages("only root can have apt unpack a package into an image")
    download = ["apt-get", "download", "-qq", "prometheus"]
    subprocess.run(["chmod", "777", folder], check=True)  # apt gives up its rights for what it downloads
    if subprocess.run(download, cwd=folder, capture_output=True, check=False).returncode != 0:
        raise NoImages("apt cannot download the package prometheus")
    unpacked = folder / "unpacked"
    subprocess.run(["dpkg-deb", "-x", next(folder.glob("prometheus_*.deb")), unpacked], check=True)
    shutil.rmtree(unpacked / "etc", ignore_errors=True)
    return StandIn(
        ("libc6",),
        folders={"prometheus": NOBODY},
        unpacked=unpacked,
        changes=('ENTRYPOINT ["/usr/bin/prometheus"]', "WORKDIR /prometheus"),
    )


def make(stand_in: StandIn, name: str, docker: Callable[..., list[str]]) -> str:
    """Have the engine import a stand-in, unless it has that already. Returns the name with a tag.

    Args:
        stand_in: what is in it.
        name: under which name.
        docker: the command line for a Docker command.

    Raises:
        NoImages: this is no Debian, or a package is not installed.
    """
    if shutil.which("dpkg-query") is None:
        raise NoImages("base images are made of Debian's packages, and this is no Debian")
    packages = _with_dependencies(stand_in.packages)
    # By what is in it, so that layers that were built on it can be used again.
    name += ":" + hashlib.sha256(f"{stand_in}{_status_of(packages)}".encode()).hexdigest()[:12]
    if subprocess.run(docker("image", "inspect", name), capture_output=True, check=False).returncode == 0:
        return name
    changes = [argument for change in stand_in.changes for argument in ("--change", change)]
    importing = docker("import", *changes, "-", name)
    with subprocess.Popen(importing, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
        assert run.stdin is not None
        assert run.stderr is not None
        with suppress(BrokenPipeError):  # it says why
            with tarfile.open(fileobj=run.stdin, mode="w|") as image:
                _fill(image, stand_in, packages)
            run.stdin.close()
        complaint = run.stderr.read().decode()
    assert run.returncode == 0, complaint
    return name


def _fill(image: tarfile.TarFile, stand_in: StandIn, packages: Mapping[str, str]) -> None:
    groups = [line.split(":") for line in _ACCOUNTS.splitlines()]
    own = [
        *(_folder(path, 0o1777 if path.endswith("tmp") else 0o755) for path in _EMPTY),
        _file("etc/passwd", _ACCOUNTS),
        _file("etc/group", "".join(f"{name}:x:{number}:\n" for name, _, _, number, *_ in groups)),
        _file("var/lib/dpkg/status", _status_of(packages)),
        *(_link(path, target) for path, target in stand_in.links.items()),
        *(_folder(path, user=user) for path, user in stand_in.folders.items()),
        *(_file(path, text, 0o755) for path, text in stand_in.programs.items()),
    ]
    made = {entry.name for entry, _ in own}
    for entry, content in own:
        image.addfile(entry, io.BytesIO(content))
    for path in sorted({*_files_of(packages), *_generated()}):
        if path.lstrip("/") not in made:
            image.add(path, path.lstrip("/"), recursive=False)
    if stand_in.unpacked is not None:
        for each in sorted(stand_in.unpacked.rglob("*")):
            if not each.is_dir():
                image.add(each, str(each.relative_to(stand_in.unpacked)), recursive=False)


def _folder(path: str, mode: int = 0o755, user: int = 0) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, user, user
    return entry, b""


def _file(path: str, text: str, mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    entry, content = tarfile.TarInfo(path), text.encode()
    entry.mode, entry.size = mode, len(content)
    return entry, content


def _link(path: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(path)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry, b""


# -- packages --------------------------------------------------------------------------------------------------------


def _with_dependencies(roots: Iterable[str]) -> dict[str, str]:
    """The packages, what they depend on, and what every Debian has: names with architecture, by names."""
    output = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "\x1f".join(f"${{{each}}}" for each in _FIELDS) + "\n"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    installed = {
        row[1]: dict(zip(_FIELDS, row, strict=True)) for row in (line.split("\x1f") for line in output.splitlines())
    }
    provided = {
        name.split(" ")[0]: package
        for package, fields in installed.items()
        for name in re.split(r",\s*", fields["Provides"])
        if name
    }
    needed = [
        *roots,
        *(n for n, each in installed.items() if each["Essential"] == "yes" or each["Priority"] == "required"),
    ]
    found: dict[str, str] = {}
    while needed:
        name = needed.pop()
        package = name if name in installed else provided.get(name, "")
        if name in roots and not package:
            raise NoImages(f"the package {name} is not installed")
        if package and package not in found:
            fields = installed[package]
            found[package] = fields["binary:Package"]
            needed += _first_installed(f"{fields['Pre-Depends']},{fields['Depends']}", installed, provided)
    return found


def _first_installed(depends: str, installed: Mapping[str, object], provided: Mapping[str, str]) -> Iterator[str]:
    for alternatives in filter(None, map(str.strip, depends.split(","))):
        for alternative in alternatives.split("|"):
            name = re.split(r"[\s(:]", alternative.strip(), maxsplit=1)[0]
            if name in installed or name in provided:
                yield name
                break


def _files_of(packages: Mapping[str, str]) -> Iterator[str]:
    listed = subprocess.run(
        ["dpkg-query", "--listfiles", *packages.values()], check=True, capture_output=True, text=True
    )
    for line in set(listed.stdout.splitlines()):
        if line.startswith("/") and line != "/." and not _LEFT_OUT.match(line) and os.path.lexists(line):
            # /bin and the like are links, which packages do not know
            yield str(Path(line).parent.resolve() / Path(line).name)
    for merged in ("/bin", "/sbin", "/lib", "/lib64"):
        if os.path.lexists(merged):
            yield merged


def _generated() -> Iterator[str]:
    """What packages made when they were installed, and how this machine's pip and apt find theirs."""
    for each in (*_GENERATED, "/etc/pip.conf", "/etc/apt"):
        if Path(each).is_dir():
            yield from map(str, (Path(each), *Path(each).rglob("*")))
        elif Path(each).exists():
            yield each


def _status_of(packages: Mapping[str, str]) -> str:
    """What apt reads to know what is installed."""
    status = subprocess.run(["dpkg-query", "--status", *packages.values()], check=True, capture_output=True, text=True)
    return status.stdout
