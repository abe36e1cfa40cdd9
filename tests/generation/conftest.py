from tests.support.left_processes import nothing_left
from tests.support.workers import forked_workers, fresh_workers

__all__ = ["forked_workers", "fresh_workers", "nothing_left"]  # fixtures of this folder's tests
