"""Many environments at once: worker processes, the wire protocol, and the vector environment over them."""

from physgym.vector.make import make_vec as make_vec
from physgym.vector.vector_env import SocketVectorEnv as SocketVectorEnv
