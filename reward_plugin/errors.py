"""Everything this package raises on purpose.

    RewardError
    ├── ConfigError (also ValueError)      a setting, weight or option is wrong
    ├── CheckpointError                    a model folder is missing, incomplete or of another architecture
    ├── BadImage (also ValueError)         one picture cannot be read; inside a batch it becomes an error text
    ├── ScorerFailed                       the model itself failed; the message carries its exception
    ├── MissingScore                       a picture has no score, and whoever asked has no word for that
    ├── ProtocolError                      a body is not a valid request or response of this version
    │   └── TooLarge                       a request is over the item or size limit
    └── ServerError                        the other end of the wire
        ├── RequestRefused                 it understood and said no (token, size, form): no use retrying
        └── ServerUnavailable              no usable answer within the allowed wait
            └── ServerBusy                 it answered, but was over its queue limit for the whole wait

Every message names the file, key or address, the rule that was broken, and what to do about it.
"""


class RewardError(Exception):
    """Base of all errors that this package raises on purpose."""


class ConfigError(RewardError, ValueError):
    """A setting, weight or option is wrong."""


class CheckpointError(RewardError):
    """A model folder is missing, incomplete or of another architecture."""


class BadImage(RewardError, ValueError):
    """A picture cannot be read or is refused. Within a batch this becomes the item's error text."""


class ScorerFailed(RewardError):
    """A scorer raised while scoring a whole batch (out of memory, device error): never turned into
    numbers.
    """


class MissingScore(RewardError):
    """A score is missing, and the trainer that asked takes nothing but numbers; carries the reasons."""


class ProtocolError(RewardError):
    """A request or response body does not follow the wire format of this version."""


class TooLarge(ProtocolError):
    """A request is over the server's item or size limit."""


class ServerError(RewardError):
    """Base of what can go wrong on the other end of the wire."""


class RequestRefused(ServerError):
    """The server understood the request and refused it; sending it again would not help."""


class ServerUnavailable(ServerError):
    """No usable answer within the allowed wait."""


class ServerBusy(ServerUnavailable):
    """The server answered, but stayed over its queue limit for the whole allowed wait."""
