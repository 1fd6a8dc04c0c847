"""Every error a user can cause, as one family: the command line prints these as one line and exits with 2."""


class X2IError(Exception):
    """Base class. The message names the thing, the value found, and what would be right."""


class ConfigError(X2IError):
    """A recipe, a `--set` or an option that can't be used."""


class WeightsError(X2IError):
    """Model weights that are missing, damaged, or of another architecture than asked for."""


class InputError(X2IError):
    """Captions or requests that can't be read, or too many of them bad."""


class StoreError(X2IError):
    """A feature store that is missing, damaged, or made by another recipe."""


class TrainingError(X2IError):
    """Training that must not go on: a non-finite loss, no data, a run that belongs to other settings."""


class RegistryError(X2IError):
    """A tracking server, registered model, version or alias that isn't there."""


class ClusterError(X2IError):
    """A Ray cluster that can't be reached or is too small for the plan."""


def to_text(error: X2IError) -> str:
    """An error as text that `from_text` restores: exceptions lose their causes on the way between processes."""
    kinds = (kind.__name__ for kind in type(error).__mro__ if kind in X2IError.__subclasses__())
    return f"{next(kinds, X2IError.__name__)}: {error}"


def from_text(text: str) -> X2IError:
    """The error that `to_text` wrote down."""
    name, _, message = text.partition(": ")
    kinds = {kind.__name__: kind for kind in X2IError.__subclasses__()}
    return kinds.get(name, X2IError)(message)
