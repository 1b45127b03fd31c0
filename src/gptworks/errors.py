"""The errors a person can cause. Everything else is a bug and may crash with a traceback.

The command line prints the message alone, on one line, and exits with status 2. So a message names the
thing, the value it had, and the way out, in the person's own spelling (`--optim.lr`, not `config.lr`).
"""


class UserError(Exception):
    """Bad input: the person must change something."""


class ConfigError(UserError):
    """An option is unknown, has the wrong type, or contradicts another option."""


class InUseError(ConfigError):
    """Another process works in the folder."""


class DataError(UserError):
    """A text source, Dataset, token shard or tokenizer is missing or malformed."""


class CheckpointError(UserError):
    """A model or checkpoint is missing, incomplete, or does not fit what is asked of it."""


class ResourceError(UserError):
    """The machine has too little memory, disk or time for what is asked of it."""
