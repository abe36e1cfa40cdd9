"""Conformance of environments: `check_env` for a quick look, `EnvConformance` for a test suite, a pytest plug-in.

The same of workers in any language: `check_worker` and `WorkerConformance`.

``pytest --physgym-env ID`` runs the suite on a registered environment.
"""

from physgym.testing.conformance import EnvConformance as EnvConformance
from physgym.testing.conformance import check_env as check_env
from physgym.testing.isolation import ConformanceNote as ConformanceNote
from physgym.testing.worker_conformance import WorkerConformance as WorkerConformance
from physgym.testing.worker_conformance import check_worker as check_worker
