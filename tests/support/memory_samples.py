"""Samples in memory, with the interface of a stored dataset, for tests of what trains on them."""

from __future__ import annotations

import numpy as np

from physgym.data.statistics import of_samples
from physgym.generation.sample_source import SampleSource
from physgym.sample import Field, SampleSpec


def spec_of(arrays, roles):
    """The fields of a dictionary of arrays, shape (n, *shape)."""
    return SampleSpec(
        [Field(name, value.shape[1:], value.dtype, roles.get(name, "additional")) for name, value in arrays.items()]
    )


class MemorySamples:
    def __init__(self, arrays, spec, episodes=None):
        self.arrays, self.spec = arrays, spec
        self.episodes = np.arange(len(self)) if episodes is None else episodes
        self.gathered = []  # the indices that were asked for

    def __len__(self):
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, indices):
        return self.gather(indices)

    def gather(self, indices, fields=None, out=None):
        self.gathered.append(np.asarray(indices))
        names = self.spec if fields is None else fields
        if out is None:
            return {name: self.arrays[name][indices] for name in names}
        for name in names:
            out[name][...] = self.arrays[name][indices]
        return out

    @property
    def statistics(self):
        return of_samples(self.spec, self.arrays, self.arrays)

    def split(self, validation_fraction, seed=0):
        known = np.unique(self.episodes)
        held = np.random.default_rng(seed).permutation(known)[: max(1, round(validation_fraction * len(known)))]
        mask = np.isin(self.episodes, held)
        return self._part(~mask), self._part(mask)

    def _part(self, mask):
        return MemorySamples({name: a[mask] for name, a in self.arrays.items()}, self.spec, self.episodes[mask])


class MemorySource(SampleSource):
    """Produces the samples of a set one after the other, for ever; what was drawn is stored if `store`."""

    def __init__(self, samples, store=True):
        self.samples, self.store = samples, store
        self.spec, self.count, self.closed = samples.spec, 0, False

    def draw(self, batch_size):
        assert not self.closed
        indices = np.arange(self.count, self.count + batch_size) % len(self.samples)
        self.count += batch_size
        return self.samples.gather(indices)

    def dataset(self):
        if not self.store:
            return None
        return MemorySamples(self.samples.gather(np.arange(self.count) % len(self.samples)), self.spec)

    def close(self):
        self.closed = True


def linear_samples(n=256, seed=0, noise=0.0):
    """A linear response of unlike scales: force (3, 2) -> displacement (4,), one episode per two samples."""
    rng = np.random.default_rng(seed)
    matrix = np.random.default_rng(99).normal(size=(6, 4))
    force = rng.normal(50.0, 20.0, size=(n, 3, 2))
    displacement = 1e-3 * (force.reshape(n, 6) @ matrix) + 7.0 + noise * rng.normal(size=(n, 4))
    arrays = {
        "force": force.astype(np.float32),
        "displacement": displacement.astype(np.float32),
        "energy": rng.random(n),
    }
    spec = spec_of(arrays, {"force": "input", "displacement": "target"})
    return MemorySamples(arrays, spec, np.arange(n) // 2)
