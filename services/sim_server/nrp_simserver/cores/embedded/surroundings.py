"""What an engine would have for itself if it were a process of its own, kept apart for engines that share one process.

Originally every engine was a process. Here each is an `Occupant` of this one: before its code runs, the process is made
to look as that occupant left it: the modules that it imported from the experiment's folder, where it looks for others,
its working directory, and the global random generators. All functions together are one occupant, and so is whoever uses
the core from outside.
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar, TypeVar

import nrp_shims
from nrp_common.errors import EngineFailed
from nrp_simserver.cores.embedded.generators import Generator, NumpyGenerator, StandardGenerator, States
from nrp_simserver.cores.embedded.imports import Imports
from nrp_simserver.cores.embedded.working_directory import is_working_in, work_in, working_directory

GeneratorT = TypeVar("GeneratorT", bound=Generator)

FUNCTIONS = "nrp_functions"
"""The name of the module whose globals all functions share."""

_SCRIPT = "nrp_engine_"
"""Begins the names of engines' modules."""

_DIFFERENT = (_SCRIPT, FUNCTIONS)
"""Names that no two occupants have: these modules need not be kept apart, which would cost something in every step."""


class Occupant:
    """An engine, all functions together, or the outside: code that must not notice the others.

    Args:
        folder: its working directory at first.
        path: its `sys.path`.

    Attributes:
        modules: what it imported from the experiment's folder, by name.
        generators: the states of the random generators that it has used.
    """

    __slots__ = ("folder", "generators", "modules", "path")

    def __init__(self, folder: str, path: list[str]) -> None:
        self.folder = folder
        self.path = path
        self.modules: dict[str, ModuleType] = {}
        self.generators: States = {}


class Surroundings:
    """Switches this process between the occupants of one experiment.

    Args:
        folder: the experiment's folder, absolute.
    """

    _first_on_path: ClassVar[Surroundings | None] = None
    """Whose folder is looked into first for imports: of several experiments in one process, that which has its turn."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._encoded_folder = os.fsencode(folder)
        self._root = str(folder) + os.sep
        self._paths = [str(folder), str(nrp_shims.PATH)]
        self._outside = Occupant(self._folder, sys.path)
        self._inside: list[Occupant] = []
        self._generators: list[Generator] = []
        self._places_differ = False
        self._seeds: random.Random | None = None
        self._present = self._outside
        self._imports = Imports()
        self._outside_folder: str | None = None

    def open(self) -> None:
        """Let the experiment's files and the packages that they expect be imported."""
        self._take_path()
        self._outside.path = sys.path
        self._places_differ = True
        sys.path_importer_cache.pop(self._folder, None)  # whatever was found there before
        self._note_modules()
        self._generators.insert(0, self._watched(StandardGenerator()))
        self._outside.generators = {generator: generator.save() for generator in self._generators}

    def seed(self, seed: int) -> None:
        """Have all that occupants draw from here on follow from `seed`. Called from the outside."""
        self._seeds = random.Random(seed)  # noqa: S311  nothing to do with secrets
        for generator in self._generators:
            generator.follow(self._seeds)
            generator.is_used = False
        for occupant in self._inside:
            occupant.generators.clear()

    def settle(self) -> None:
        """After initialisation: from here on what is the same for all occupants is not handed over any more.

        Generators are still watched. Who begins to change its working directory or `sys.path` later does it for all.
        """
        for generator in self._generators:
            generator.is_used = any(generator in occupant.generators for occupant in self._inside)
        self._places_differ = any(
            occupant.folder != self._folder or occupant.path != self._outside.path for occupant in self._inside
        )

    def occupant(self) -> Occupant:
        """A new occupant."""
        occupant = Occupant(self._folder, self._outside.path.copy())
        self._inside.append(occupant)
        return occupant

    def close(self) -> None:
        """Undo `open`."""
        self._leave_path()
        if Surroundings._first_on_path is self:
            Surroundings._first_on_path = None
        for name in [name for name in sys.modules if name.startswith(_DIFFERENT)]:
            del sys.modules[name]

    def _take_path(self) -> None:
        sys.path[:0] = self._paths
        Surroundings._first_on_path = self

    def _leave_path(self) -> None:
        for path in self._paths:
            if path in sys.path:
                sys.path.remove(path)

    def enter(self) -> None:
        """Go into the experiment's folder, from the outside."""
        if not is_working_in(self._encoded_folder):
            self._outside_folder = working_directory()
            work_in(self._folder)
        if Surroundings._first_on_path is not self:  # another experiment is open in this process, too
            self._leave_path()
            self._take_path()
        if self._seeds is not None:
            # Else the first to draw would draw what the outside was to draw next, and not what follows from the seed.
            for generator in self._generators:
                if not generator.is_used:
                    self._outside.generators[generator] = generator.lend()

    def leave(self) -> None:
        """Make the process look to the outside as it did at `enter`."""
        self.switch(self._outside)
        if self._seeds is not None:
            for generator in self._generators:
                if not generator.is_used:
                    generator.load(self._outside.generators[generator])
        if self._outside_folder is not None:
            work_in(self._outside_folder)
            self._outside_folder = None

    def switch(self, occupant: Occupant) -> None:
        """Make the process look as `occupant` left it."""
        present = self._present
        if occupant is present:
            return
        if len(sys.modules) != self._imports.known:
            self._note_modules()
        if present.modules or occupant.modules:
            for name in present.modules:
                sys.modules.pop(name, None)
            sys.modules.update(occupant.modules)
            self._imports.note()
        if self._places_differ:
            present.folder, present.path = working_directory(), sys.path
            if occupant.folder != present.folder:
                work_in(occupant.folder)
            sys.path = occupant.path
        for generator in self._generators:
            if generator.is_used or generator.word.raw != generator.mark:
                generator.is_used = True
                generator.hand_over(present.generators, occupant.generators)
        self._present = occupant

    def _watched(self, generator: GeneratorT) -> GeneratorT:
        if self._seeds is not None:
            generator.follow(self._seeds)
        return generator

    def _note_modules(self) -> None:
        """The present occupant has imported something: what is of the experiment's folder is its own."""
        own = {name: sys.modules[name] for name in self._present.modules if name in sys.modules}
        new = self._imports.new()
        own |= {name: new[name] for name in new if not name.startswith(_DIFFERENT) and self._is_own(new[name])}
        self._present.modules = own
        if "numpy.random" in sys.modules and not any(isinstance(known, NumpyGenerator) for known in self._generators):
            generator = self._watched(NumpyGenerator())
            generator.mark = None  # it may have been used before it was seen
            self._generators.append(generator)

    def _is_own(self, module: ModuleType) -> bool:
        location = getattr(module, "__file__", None)
        if location is None:
            location = next(iter(getattr(module, "__path__", ())), None)
        return isinstance(location, str) and location.startswith(self._root) and "site-packages" not in location


def import_from_beside(file: Path) -> None:
    """Let a file in a subfolder of the experiment import its neighbours, too; modules of the same name come first."""
    folder = str(file.parent)
    if folder not in sys.path:
        sys.path.append(folder)


def load_script(folder: Path, file: str, engine: str) -> ModuleType:
    """Run the Python file of an engine as a module.

    Raises:
        EngineFailed: it is not a Python file.
    """
    name = _SCRIPT + engine
    spec = importlib.util.spec_from_file_location(name, folder / file)
    if spec is None or spec.loader is None:
        raise EngineFailed(f"{file} is not a Python file", file=file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    import_from_beside(folder / file)
    spec.loader.exec_module(module)
    return module
