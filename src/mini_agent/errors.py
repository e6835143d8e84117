"""The errors this program raises on purpose.

AgentError
├── ConfigError      a setting cannot be used; before the ready line; exit status 2
├── StartError       a port is taken, a folder cannot be locked; before the ready line; status 1
├── ProtocolError    the peer's bytes are wrong; carries the HTTP status to answer with
│   └── DecodeError  a body that is not what its route takes; says where
└── JournalFull      no room to keep what was sent; the sender is told and may try again

Expected results (a delivery that failed, a setting that fell back) are values, not errors.
"""

from __future__ import annotations


class AgentError(Exception):
    """The root of the family."""


class ConfigError(AgentError):
    """A setting that cannot be used; the message names the variable."""


class StartError(AgentError):
    """The agent cannot start; the message says what is in the way."""


class ProtocolError(AgentError):
    """What the peer sent cannot be taken; ends that exchange only.

    Args:
        status: HTTP status to answer with.
        reason: One word for the ledger.
        message: One sentence for the sender. Never a value from the payload.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class DecodeError(ProtocolError):
    """A body that does not decode.

    Args:
        message: What is wrong, with the path of the field.
        offset: Byte of the body where it was found.
    """

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(400, "undecodable", f"{message} (at byte {offset})")
        self.offset = offset


class JournalFull(AgentError):
    """Nothing more can be kept now.

    Args:
        retry_after_s: When it is worth trying again, for the sender.
    """

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
