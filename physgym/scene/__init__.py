"""Pictures of simulations: what they show, and how it is drawn."""

from physgym.scene.frames import draw as draw
from physgym.scene.objects import Scene as Scene
from physgym.scene.objects import SceneHandle as SceneHandle
from physgym.scene.values import Values as Values
from physgym.scene.values import constant as constant
from physgym.scene.values import field as field
from physgym.scene.values import norm as norm
from physgym.scene.values import prediction as prediction
from physgym.scene.values import stack as stack
