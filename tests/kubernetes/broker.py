"""The broker of the manifests, with what its Pod would have."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.kubernetes.manifests import DEPLOY, Manifests
from tests.kubernetes.objects import Object
from tests.secured_broker import LabBroker


class ManifestBroker(LabBroker):
    """A Mosquitto as the manifests have it, but for the places of its files and ports; not running yet.

    Args:
        manifests: with its Pod, configuration and secrets.
        folder: for its files: each of its volumes is a folder in there.
    """

    def __init__(self, manifests: Manifests, folder: Path) -> None:
        self._volumes = folder / "volumes"
        pod = manifests.pods["nrp-broker"]["spec"]
        (self._init_container,), (self._container,) = pod["initContainers"], pod["containers"]
        (self._volumes / "secrets").mkdir(parents=True)
        for name, content in manifests.files("Secret", "nrp-broker-access").items():
            (self._volumes / "secrets" / name).write_bytes(content)
        self.prepare()
        configuration = manifests.files("ConfigMap", "nrp-broker")["mosquitto.conf"].decode()
        super().__init__(folder, access=self._volumes / "work", configuration=configuration)

    def prepare(self) -> str:
        """What the init container does before each start; what it says."""
        done = self._run(self._init_container, self._init_container["command"])
        assert done.returncode == 0, done.stderr
        return done.stdout

    def probe(self, kind: str) -> subprocess.CompletedProcess[str]:
        """Look whether the broker is well, as its Pod does."""
        options = self._volumes / "store" / "access" / "health" / "mosquitto_sub"
        text = self._here(self._container, options.read_text())
        options.write_text(text.replace("-p 8883", f"-p {self.secured.port}"))
        return self._run(self._container, self._container[kind]["exec"]["command"])

    def _run(self, container: Object, command: list[str]) -> subprocess.CompletedProcess[str]:
        path = f"{DEPLOY / 'images'}:{Path(sys.executable).parent}:{os.environ['PATH']}"  # what the images have
        here = [self._here(container, each) for each in command]
        return subprocess.run(here, env={"PATH": path}, check=False, capture_output=True, text=True)

    def _here(self, container: Object, text: str) -> str:
        """With the places of this machine for those in a container."""
        places = {
            each["mountPath"]: self._volumes / each["name"] / each.get("subPath", "")
            for each in sorted(container["volumeMounts"], key=lambda each: str(each["mountPath"]))
        }
        for there, here in places.items():
            here.mkdir(parents=True, exist_ok=True)
            outer, name = str(Path(there).parent), Path(there).name
            if outer in places and not (places[outer] / name).exists():  # a volume within a volume
                (places[outer] / name).symlink_to(here)
        longest_first = "|".join(map(re.escape, sorted(places, key=len, reverse=True)))
        return re.sub(rf"(?<![\w/-])({longest_first})\b", lambda found: str(places[found[0]]), text)
