"""The errors that a user can cause. Anything else is a bug and may end in a traceback.

The command line prints the message on one line and exits with status 2. A message therefore names the thing, its value
and the way out, in the user's spelling (`--optim.lr`, not `config.lr`).
"""


class UserError(Exception):
    """The user must change something."""


class ConfigError(UserError):
    """An option is unknown, has the wrong type, or contradicts another option."""


class InUseError(ConfigError):
    """Another process is using the folder."""


class DataError(UserError):
    """A text source, Dataset, token shard or tokenizer is missing or malformed."""


class CheckpointError(UserError):
    """A model or checkpoint is missing, incomplete, or does not support the requested operation."""


class ResourceError(UserError):
    """The machine has too little memory, disk space or time."""
