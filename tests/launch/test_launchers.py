"""The launchers keep their contract."""

from physgym.launch.fork import ForkLauncher
from physgym.launch.forkserver import ForkServerLauncher
from physgym.launch.spawn import SpawnLauncher
from physgym.testing.launchers import LauncherContract


class TestSpawn(LauncherContract):
    def launcher(self):
        return SpawnLauncher()


class TestFork(LauncherContract):
    shares_memory = True

    def launcher(self):
        return ForkLauncher()


class TestForkServer(LauncherContract):
    def launcher(self):
        return ForkServerLauncher()
