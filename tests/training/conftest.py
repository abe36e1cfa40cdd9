from tests.support.workers import forked_workers, fresh_workers

__all__ = ["forked_workers", "fresh_workers"]  # fixtures of this folder's tests
