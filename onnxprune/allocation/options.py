"""What the allocation asks of the user's options, whatever else these hold."""

from typing import Protocol


class AllocationOptions(Protocol):
    """The options that the allocation reads; `PruneConfig` has them among others."""

    @property
    def keep(self) -> tuple[str, ...]:
        """Names of groups, or patterns, that stay as they are."""

    @property
    def seed(self) -> int:
        """Seed of the solver."""
