"""What kernels raise where they cannot be used at all, whatever the call."""

__all__ = ["KernelUnavailableError"]


class KernelUnavailableError(RuntimeError):
    """The kernels can neither run on this machine nor be lowered for another from it."""
