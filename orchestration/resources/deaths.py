"""How a worker of Ray's ended: killed, out of memory, or with its machine."""

from __future__ import annotations


def death_in(error: BaseException) -> str:
    """How a worker's process ended, or that it lacked memory; "" for every other error."""
    from ray.exceptions import (
        NodeDiedError,
        ObjectLostError,
        OutOfMemoryError,
        RayActorError,
    )

    from corgi_core.out_of_memory import ran_out

    if isinstance(error, RayActorError | NodeDiedError | ObjectLostError | OutOfMemoryError):
        return first_line(error)
    if ran_out(error):
        return f"out of memory: {first_line(error)}"
    return ""


def ended_with_node(error: BaseException) -> bool:
    """Whether a worker's machine, or Ray's process there, has died."""
    from ray.exceptions import NodeDiedError

    return isinstance(error, NodeDiedError) or "node has died" in str(error)


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
