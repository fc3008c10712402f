"""What an engine would have for itself if it were a process of its own, kept apart for engines that share one process.

Originally every engine was a process. Here each is an `Occupant` of this one: before its code runs, the process is made
to look as that occupant left it: the modules it imported from the experiment's folder. All functions together are one
occupant, and so is whoever uses the core from outside.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import nrp_shims
from nrp_common.errors import EngineFailed


class Occupant:
    """An engine, all functions together, or the outside: code that must not notice the others."""

    __slots__ = ("modules",)

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}


class Surroundings:
    """Switches this process between the occupants of one experiment.

    Args:
        folder: the experiment's folder, absolute.
    """

    def __init__(self, folder: Path) -> None:
        self._root = str(folder) + os.sep
        self._paths = [str(folder), str(nrp_shims.PATH)]
        self.outside = Occupant()
        self._present = self.outside
        self._known_modules = 0

    def open(self) -> None:
        """Let the experiment's files and the packages that they expect be imported."""
        sys.path[:0] = self._paths
        importlib.invalidate_caches()
        self._known_modules = len(sys.modules)

    def close(self) -> None:
        """Undo `open`; what occupants imported is forgotten."""
        self.switch(self.outside)
        for path in self._paths:
            if path in sys.path:
                sys.path.remove(path)

    def switch(self, occupant: Occupant) -> None:
        """Make the process look as `occupant` left it."""
        present = self._present
        if occupant is present:
            return
        modules = sys.modules
        if len(modules) != self._known_modules:
            self._adopt(present)
        for name in present.modules:
            modules.pop(name, None)
        if occupant.modules:
            modules.update(occupant.modules)
        self._known_modules = len(modules)
        self._present = occupant

    def _adopt(self, occupant: Occupant) -> None:
        """Take note of the modules of the experiment's folder that are loaded now as those of `occupant`."""
        occupant.modules = {name: module for name, module in sys.modules.items() if self._is_own(module)}

    def _is_own(self, module: ModuleType) -> bool:
        location = getattr(module, "__file__", None)
        if location is None:
            location = next(iter(getattr(module, "__path__", ())), None)
        return location is not None and location.startswith(self._root) and "site-packages" not in location


def load_script(folder: Path, file: str) -> ModuleType:
    """Run a Python file of the experiment as a module of the present occupant, named as the file.

    Raises:
        EngineFailed: it is not a Python file.
    """
    path = folder / file
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise EngineFailed(f"{file} is not a Python file", file=file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
