"""One family of errors; a child also inherits the built-in kind, so that `except ValueError` keeps working."""

__all__ = [
    "BackendError",
    "BatchNormError",
    "ConversionError",
    "OptionError",
    "ShapeError",
    "StatisticsError",
]


class BatchNormError(Exception):
    """Anything this package refuses. The message says what must hold, what came, and what to do."""


class OptionError(BatchNormError, ValueError):
    """A constructor or function argument has a value that cannot work."""


class ShapeError(BatchNormError, ValueError):
    """A tensor has a shape that does not fit."""


class BackendError(BatchNormError, RuntimeError):
    """A backend that was named cannot do this call."""


class ConversionError(BatchNormError, TypeError):
    """A layer would lose a choice if another tool rebuilt it."""


class StatisticsError(BatchNormError, RuntimeError):
    """A held or deferred update of running statistics is used in a way that has no meaning."""
