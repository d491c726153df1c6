"""What an export can fail with, beside the errors of checkpoints and configurations."""

from dia_ort.errors import DiaError


class OutputExistsError(DiaError, FileExistsError):
    """The output folder is taken."""


class ExportError(DiaError, RuntimeError):
    """The export could not be finished; nothing was published."""


class GateError(ExportError):
    """An exported graph is not equal enough to the model; the message has the figures."""


class NameMismatchError(GateError):
    """A graph has other inputs or outputs than declared."""


class AxesMismatchError(GateError):
    """A graph's input or output has another dtype, or other axes, than declared."""


class ShapeMismatchError(GateError):
    """A graph's output has another shape than PyTorch's."""


class ValueMismatchError(GateError):
    """A graph's values are further from PyTorch's than its dtype allows."""


class DistributionMismatchError(GateError):
    """A quantised decoder's next-token distribution is further from the model's than allowed."""
