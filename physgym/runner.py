"""The public names of `physgym.running`."""

from physgym.running.return_gap import ReturnGap as ReturnGap
from physgym.running.return_gap import return_gap as return_gap
from physgym.running.rollout_evaluation import RolloutEvaluation as RolloutEvaluation
from physgym.running.rollout_report import RolloutReport as RolloutReport
from physgym.running.runner import Runner as Runner
from physgym.running.save_frames import SaveFrames as SaveFrames
from physgym.running.surrogate import SurrogateEnv as SurrogateEnv
from physgym.running.surrogate_vector import SurrogateVectorEnv as SurrogateVectorEnv
