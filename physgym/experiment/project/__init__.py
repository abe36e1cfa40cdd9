"""``physgym new``: a package for your own simulation, from the files in ``template``."""

from physgym.experiment.project.new import Project as Project
from physgym.experiment.project.new import new_project as new_project
