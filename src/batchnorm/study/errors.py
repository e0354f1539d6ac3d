"""What can go wrong in a study through no fault of the code; shown as one message, without a traceback."""

from batchnorm.core.errors import BatchNormError


class StudyError(BatchNormError):
    """A study cannot start or go on; the message says what came and what to do."""


class DataError(StudyError):
    """The image files are missing, damaged or not the expected ones."""


class RecordsError(StudyError):
    """The records in the output directory do not fit what was asked for."""
