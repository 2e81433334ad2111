"""Every error and warning that jvpsvd raises, in one tree.

Each message is one line that says what went wrong, where, and what to do about it.
"""

from __future__ import annotations


class JvpsvdError(Exception):
    """Root of all errors raised on purpose by jvpsvd."""


class ArgumentError(JvpsvdError, ValueError):
    """An argument that cannot be used: wrong value, shape, dtype or combination."""


class OperandError(ArgumentError, TypeError):
    """What an operator cannot be added to, scaled by, multiplied with or used as, nor a result."""


class UnknownArgumentError(ArgumentError, TypeError):
    """An argument of a name that a function has not; the message says what it is called here."""


class UnknownAttributeError(JvpsvdError, AttributeError):
    """An attribute that an object has not; the message says what it is called here."""


class MissingPackageError(ArgumentError, ImportError):
    """Something that needs a package of an extra that is not installed; the message names both."""


class NonFiniteError(JvpsvdError, ArithmeticError):
    """A value, a product or a spectrum holds NaN or infinity."""


class ConvergenceError(JvpsvdError, ArithmeticError):
    """Raised by ``on_unconverged="raise"`` when some triplets are not certified."""


class AdjointError(JvpsvdError, ArithmeticError):
    """Forward and reverse products that do not belong to one matrix."""


class DerivativeError(JvpsvdError, ArithmeticError):
    """A function that changes although automatic differentiation finds no derivative of it."""


class TraceError(JvpsvdError, RuntimeError):
    """A function whose linear map cannot be recorded once and replayed."""


class ModelError(JvpsvdError, RuntimeError):
    """A network that cannot be found, loaded, cut or differentiated."""


class RankError(JvpsvdError, RuntimeError):
    """Ranks of a process group that take different products, or of which one failed."""


class ShardError(JvpsvdError, RuntimeError):
    """A shard that is missing, truncated or malformed."""


class InputError(JvpsvdError, RuntimeError):
    """A member of a shard that does not become the input of a network."""


class PhotoError(InputError):
    """Bytes that are not a photo that can be decoded."""


class DataError(JvpsvdError, RuntimeError):
    """A data file that is missing, damaged, or another one than expected."""


class DiskError(DataError, OSError):
    """A file that cannot be written: no space, no permission, or something else in its place."""


class RunError(JvpsvdError, RuntimeError):
    """A run folder that is missing, incomplete or belongs to another specification."""


class EngineError(JvpsvdError, RuntimeError):
    """Workers of a survey that are not available."""


class JvpsvdWarning(UserWarning):
    """Root of all warnings issued by jvpsvd."""


class PrecisionWarning(JvpsvdWarning):
    """A tolerance below the rounding of the dtype; issued before the work starts."""


class ConvergenceWarning(JvpsvdWarning):
    """Some triplets are not certified; the result says which."""
