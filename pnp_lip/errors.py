"""The package's exceptions: each message says what was expected, what came and what to do."""

__all__ = ["CertificateError", "GuaranteeError", "InputError", "PnpLipError", "ShapeError"]


class PnpLipError(Exception):
    """Base class of every error this package raises on purpose."""


class InputError(PnpLipError, ValueError):
    """A value outside its admissible range, an unreadable file, a non-finite entry."""


class ShapeError(InputError):
    """A tensor whose shape or dtype does not fit the operation."""


class CertificateError(PnpLipError):
    """A claim that could not be proved, or a certificate that belongs to other weights."""


class GuaranteeError(PnpLipError):
    """A solver was asked to run where no convergence theorem applies."""
