"""Payment card numbers in text.

Source: reference-agent 5.8.
"""

from __future__ import annotations

from bisect import bisect_right

# Every card number begins with one of these; no longer text and no empty one is among them.
CARD_BEGINS = frozenset("0123456789 -")

# No issuer has fewer or more digits.
_DIGITS_MIN = 12
_DIGITS_MAX = 16

# What a number may begin with, as ranges of prefixes by their length.
_PREFIX_DIGITS = 6
_ISSUERS: dict[int, tuple[tuple[int, int], ...]] = {
    1: ((1, 1), (4, 4)),
    2: ((34, 39), (51, 55), (62, 62), (65, 65)),
    3: ((300, 305), (309, 309), (636, 636), (644, 649)),
    4: ((3528, 3589), (5019, 5019), (6011, 6011)),
    6: ((222100, 272099), (500000, 509999), (560000, 589999), (600000, 699999)),
}

# Every second digit counts double, and of what then has two digits their sum.
_DOUBLED = bytes.maketrans(b"0123456789", b"0246813579")

# Tags that hold other things, among them numbers that look like cards.
_SAFE_KEYS = frozenset(
    {
        "account_id",
        "aws_account",
        "config.spark_app_startTime",
        "config.spark_databricks_job_parentRunId",
        "databricks_job_id",
        "databricks_job_run_id",
        "databricks_task_run_id",
        "env",
        "error",
        "error.msg",
        "error.stack",
        "error.type",
        "graphql.field",
        "graphql.operation.name",
        "graphql.query",
        "graphql.type",
        "grpc.code",
        "grpc.method",
        "grpc.request",
        "http.method",
        "http.status_code",
        "out.host",
        "out.port",
        "runtime-id",
        "sampling.priority",
        "service",
        "service.name",
        "span.name",
        "span.type",
        "sql.query",
        "version",
    }
)


def may_hold_card(key: str) -> bool:
    """Whether a tag of that name is looked at; names with `_` are the tracers' own."""
    return not key.startswith("_") and key not in _SAFE_KEYS


def is_card(text: str, luhn: bool) -> bool:
    """Whether a text is a card number, with or without spaces and dashes.

    Args:
        luhn: Also ask for the checksum, which one in ten of other numbers passes.
    """
    if len(text) < _DIGITS_MIN or text[0] not in CARD_BEGINS or not text.isascii():
        return False
    digits = text.replace(" ", "").replace("-", "")
    if not _DIGITS_MIN <= len(digits) <= _DIGITS_MAX or not digits.isdigit():
        return False
    return _has_issuer(digits) and (not luhn or _has_checksum(digits))


def _has_issuer(digits: str) -> bool:
    return bisect_right(_BOUNDS, int(digits[:_PREFIX_DIGITS])) % 2 == 1


def _find_bounds() -> list[int]:
    """The issuers' ranges as numbers of six digits, each from its first to behind its last and
    those that meet as one: what lies behind an odd number of these bounds is in a range."""
    bounds: list[int] = []
    for low, end in sorted(
        (low * 10 ** (_PREFIX_DIGITS - length), (high + 1) * 10 ** (_PREFIX_DIGITS - length))
        for length, ranges in _ISSUERS.items()
        for low, high in ranges
    ):
        if bounds and low <= bounds[-1]:
            bounds[-1] = max(bounds[-1], end)
        else:
            bounds += (low, end)
    return bounds


_BOUNDS = _find_bounds()


def _has_checksum(digits: str) -> bool:
    values = digits.encode()
    total = sum(values[-1::-2]) + sum(values[-2::-2].translate(_DOUBLED))
    return (total - len(values) * ord("0")) % 10 == 0
