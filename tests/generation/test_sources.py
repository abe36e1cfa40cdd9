"""The contract of sources of samples: the stream, the online buffer, and one in memory pass it."""

from __future__ import annotations

import pytest

from physgym.errors import ConfigError
from physgym.generation.online import Online
from physgym.generation.sample_source import SampleSource
from physgym.generation.stream import SampleStream
from physgym.nn import MLP
from physgym.testing.sources import SampleSourceContract
from physgym.training import Trainer
from tests.support.memory_samples import MemorySource, linear_samples


def stream(path=None):
    return SampleStream("physgym/Spring-v0", path=path, num_envs=1, num_workers=1, max_steps=8, seed=3)


class TestStream(SampleSourceContract):
    def make(self):
        return stream()


class TestStoredStream(SampleSourceContract):
    resumable = False  # what is stored in one folder is not in another

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder, self.count = tmp_path, 0

    def make(self):
        self.count += 1
        return stream(self.folder / str(self.count))


class TestOnline(SampleSourceContract):
    repeatable = resumable = False  # what is in the buffer when it is drawn from depends on time

    def make(self):
        return Online(stream(), capacity=64, minimum=16)


class TestMemory(SampleSourceContract):
    resumable = False  # it has no state

    def make(self):
        return MemorySource(linear_samples(), store=False)


def test_a_source_without_the_interface_is_refused():
    class Misspelt(SampleSource):
        def drawn_samples(self, batch_size):
            return {}

    with pytest.raises(TypeError, match="abstract method"):
        Misspelt()

    class Other:
        spec = linear_samples().spec

        def draw(self, batch_size):
            return {}

    with pytest.raises(ConfigError, match=r"source must be a physgym\.training\.SampleSource"):
        Trainer(MLP((3, 2), 4), source=Other(), batches_per_epoch=1, epochs=1)
