"""The one exception that is meant for the user's eyes."""


class InputError(ValueError):
    """Something the user gave cannot work: what was expected, what was found, and the way out, in sentences.

    `train.py` prints the text alone and exits with code 2; any other exception is our own bug and keeps its traceback.
    """
