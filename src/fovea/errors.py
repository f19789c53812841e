"""Every error that a user can cause.

    FoveaError
    |-- ConfigError       a setting is unknown, of the wrong type or out of range
    |-- UnknownReferenceError   a model, corpus or SAE reference does not resolve
    |-- CorpusError       documents cannot be read, or are too few for what is asked
    |-- ModelError        the lm's architecture or hook point is not supported
    |-- SAEError          weights do not fit the lm, the hook point or themselves
    |-- RunError          a run folder is taken, incomplete or does not belong to this experiment
    |   `-- DamagedError      a file of a run is not what was written: cut short, changed, or something else there
    |-- RankError         another process of the run failed, was killed or hangs
    |-- StudyError        a blind study cannot be made, or does not allow this step in its state
    |   `-- StudyBusyError    its database is held by another program for now
    `-- DownloadError     a package that holds an asset cannot be fetched or is damaged

A message says what is wrong, the value, what is allowed and what to do. The command line prints it and exits with 2,
after a RankError with 3.
"""


class FoveaError(Exception):
    """Base of every error whose cause is in the user's hands."""


class ConfigError(FoveaError, ValueError):
    """A setting is unknown, of the wrong type or out of range."""


class UnknownReferenceError(FoveaError, LookupError):
    """A model, corpus or SAE reference does not resolve."""


class CorpusError(FoveaError):
    """Documents cannot be read, or are too few for what is asked."""


class ModelError(FoveaError):
    """The lm's architecture or hook point is not supported."""


class SAEError(FoveaError):
    """SAE weights do not fit the lm, the hook point or themselves."""


class RunError(FoveaError):
    """A run folder is taken, incomplete or belongs to another experiment."""


class DamagedError(RunError):
    """A file of a run is not what was written: cut short, changed, or something else in its place."""


class RankError(FoveaError):
    """Another process of the run failed, was killed or hangs."""


class StudyError(FoveaError):
    """A blind study cannot be made, or does not allow this step in its state."""


class StudyBusyError(StudyError):
    """The database of a study is held by another program for now: the same step may be tried again."""


class DownloadError(FoveaError):
    """A package that holds an asset cannot be fetched, or what came is damaged."""
