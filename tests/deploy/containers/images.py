"""The images of deploy/Dockerfile, built on stand-ins for their base."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor

from tests.deploy.containers import debian_images
from tests.deploy.containers.engine import Engine
from tests.deploy.containers.installation import DEPLOY

Images = dict[str, str]
"""Names of images, by the settings of the compose file that name them."""

BUILD_TIMEOUT_S = 600


def build_all(engine: Engine) -> Images:
    """Build gateway and launcher.

    Raises:
        NoImages: there are no base images.
    """
    python = debian_images.make(debian_images.PYTHON, "nrp-test/python", engine.command)
    with ThreadPoolExecutor() as pool:
        gateway, launcher = pool.map(lambda target: build(engine, target, python), ("gateway", "launcher"))
    return {"NRP_GATEWAY_IMAGE": gateway, "NRP_LAUNCHER_IMAGE": launcher}


def build(engine: Engine, target: str, python: str) -> str:
    """Build one of our images on this base. Returns its name."""
    name = f"nrp-test/{target}"
    options = ["--network", "host", "--build-arg", f"PYTHON={python}", "--target", target, "--tag", name]
    built = subprocess.run(
        engine.command("build", *options, "--file", DEPLOY / "Dockerfile", DEPLOY.parent),
        env=engine.environment,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return name
