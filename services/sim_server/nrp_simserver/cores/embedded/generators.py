"""The global random generators, of `random` and of `numpy.random`, kept apart for occupants of one process.

Seeding one engine must not seed another one, nor may their draws interleave. Most experiments do not use the global
generators at all, so the price is paid where they are used: an occupant that left a generator as it found it costs one
comparison. Saving and restoring by the public functions takes 10 to 100 us a generator; the state is a block of 2.5 kB
in memory, so it is copied as such (1 us) wherever a trial shows that it lies where it is expected.
"""

from __future__ import annotations

import ctypes
import random
import struct
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

_MT19937_BYTES = 625 * 4
"""624 words of state and the place of the next one among them."""

States = dict["Generator", Any]
"""What an occupant keeps of generators."""


class _Word(Protocol):
    """A part of a generator's state that tells whether it was used."""

    @property
    def raw(self) -> Any:
        """The part, as it is now."""


class _Whole:
    """The whole state, where no part of it can be looked at."""

    def __init__(self, state: Callable[[], Any]) -> None:
        self._state = state

    @property
    def raw(self) -> Any:
        return self._state()


class Generator(ABC):
    """One global generator, handed from occupant to occupant.

    An occupant that never drew from it nor seeded it has no state of its own: it finds the neutral state, which nobody
    has drawn from. The first draw makes that its own.

    Attributes:
        word: its `raw` differs from `mark` once the present occupant has used the generator.
        mark: the value at the beginning of the occupant's turn.
        is_used: whether it has to be handed over, as somebody has used it or might have.
    """

    def __init__(self) -> None:
        self.is_used = True
        self._neutral: Any = None
        self._source: random.Random | None = None
        self.word: _Word = self.find_word()
        self.mark: Any = self.word.raw

    @abstractmethod
    def find_word(self) -> _Word:
        """Something whose `raw` is another one after every draw of a new word, and after seeding."""

    @abstractmethod
    def save(self) -> Any:
        """The whole state."""

    @abstractmethod
    def load(self, state: Any) -> None:
        """Bring a saved state back."""

    @abstractmethod
    def reseed(self, seed: int | None) -> None:
        """Seed it, from the operating system when `seed` is None."""

    def follow(self, source: random.Random) -> None:
        """Take the seeds of neutral states from `source` from here on."""
        self._source = source
        self._neutral = None

    def hand_over(self, states: States, next_states: States) -> None:
        """End one occupant's turn and begin another's.

        Args:
            states: what the occupant whose turn ends keeps of generators; this one's state is put there if it was used.
            next_states: the same of the next occupant.
        """
        if self in states:
            # Compared with nothing, for the second of a pair of normal deviates is drawn without a new word.
            states[self] = self.save()
        elif self.word.raw != self.mark:
            states[self] = self.save()
            self._neutral = None  # it was drawn from: nobody else may find it so
        if self in next_states:
            self.load(next_states[self])
        else:
            self._load_neutral()
        self.word = self.find_word()
        self.mark = self.word.raw

    def lend(self) -> Any:
        """Put the neutral state in the place of the present one, which is returned to be brought back by `load`."""
        state = self.save()
        self._load_neutral()
        self.word = self.find_word()
        self.mark = self.word.raw
        return state

    def _load_neutral(self) -> None:
        if self._neutral is None:
            self.reseed(None if self._source is None else self._source.getrandbits(32))
            self._neutral = self.save()
        else:
            self.load(self._neutral)


class StandardGenerator(Generator):
    """The generator behind the functions of the module `random`."""

    def __init__(self) -> None:
        self._instance: Any = random._inst
        self._address = id(self._instance) + object.__basicsize__
        self._in_memory = self._lies_as_expected()
        super().__init__()

    def _lies_as_expected(self) -> bool:
        """Whether the object holds, after its header, the place of the next word and then the words."""
        *words, place = self._instance.getstate()[1]
        if sys.implementation.name != "cpython" or type(self._instance).__basicsize__ < 16 + _MT19937_BYTES:
            return False
        return ctypes.string_at(self._address, _MT19937_BYTES) == struct.pack("=i624I", place, *words)

    def find_word(self) -> _Word:
        """The place of the next word and the first two words, of which seeding always makes the first the same."""
        return (ctypes.c_char * 12).from_address(self._address) if self._in_memory else _Whole(self._instance.getstate)

    def save(self) -> Any:
        """The block of memory and the second value of the last pair of normal deviates."""
        if not self._in_memory:
            return self._instance.getstate()
        return ctypes.string_at(self._address, _MT19937_BYTES), self._instance.gauss_next

    def load(self, state: Any) -> None:
        """Copy the block back."""
        if not self._in_memory:
            self._instance.setstate(state)
            return
        block, self._instance.gauss_next = state
        ctypes.memmove(self._address, block, _MT19937_BYTES)

    def reseed(self, seed: int | None) -> None:
        """Seed it, from the operating system when `seed` is None."""
        self._instance.seed(seed)


class NumpyGenerator(Generator):
    """The generator behind the functions of `numpy.random`."""

    def __init__(self) -> None:
        import numpy as np  # only ever made when the experiment has imported it

        self._random = np.random
        self._instance = np.random.mtrand._rand
        self._normal_offset = self._find_normal()
        self._bits: Any = None
        self._bits_address = 0
        super().__init__()

    def _find_normal(self) -> int:
        """Where in a RandomState the second value of the last pair of normal deviates lies; 0 when not to be found.

        A flag and the value (int, double). Found with a generator of our own by giving them values that can be told.
        """
        trial = self._random.RandomState(self._random.MT19937(0))
        state: Any = trial.get_state(legacy=False)
        size = type(trial).__basicsize__
        expected = struct.pack("=i4xd", 1, 0.8414709848078965)
        trial.set_state({**state, "has_gauss": 1, "gauss": 0.8414709848078965})
        memory = bytearray(ctypes.string_at(id(trial), size))
        place = memory.find(expected[8:]) - 8
        if place < object.__basicsize__ or memory[place : place + 4] != expected[:4]:
            return 0
        trial.set_state({**state, "has_gauss": 0, "gauss": 0.0})
        return place if ctypes.string_at(id(trial) + place, 4) == bytes(4) else 0

    def _address(self) -> int:
        """Where the words and the place of the next one are; 0 when they cannot be taken from there."""
        bits = self._instance._bit_generator
        if bits is not self._bits:  # the address is made anew whenever it is asked for, by way of several objects
            known = self._normal_offset and type(bits) is self._random.MT19937
            self._bits, self._bits_address = bits, int(bits.ctypes.state_address) if known else 0
        return self._bits_address

    def find_word(self) -> _Word:
        """The last word and the place of the next one."""
        address = self._address()
        if not address:
            return _Whole(lambda: repr(self._instance.get_state(legacy=False)))
        return (ctypes.c_char * 8).from_address(address + _MT19937_BYTES - 8)

    def save(self) -> Any:
        """The blocks of memory."""
        address = self._address()
        if not address:
            return self._instance.get_state(legacy=False)
        normal = ctypes.string_at(id(self._instance) + self._normal_offset, 16)
        return ctypes.string_at(address, _MT19937_BYTES), normal

    def load(self, state: Any) -> None:
        """Copy the blocks back."""
        address = self._address()
        if isinstance(state, dict) or not address:
            self._instance.set_state(state)
            return
        words, normal = state
        ctypes.memmove(address, words, _MT19937_BYTES)
        ctypes.memmove(id(self._instance) + self._normal_offset, normal, 16)

    def reseed(self, seed: int | None) -> None:
        """Seed it, from the operating system when `seed` is None."""
        self._instance.seed(seed)


def seed_generators(seed: int) -> None:
    """Seed those of this process that are there, which then belong to one engine."""
    random.seed(seed)
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed(seed)
