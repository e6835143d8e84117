"""listen.bind_pipe: taking a pipe, and saying why it cannot be had."""

from __future__ import annotations

import ctypes
import sys
import uuid
from collections.abc import Callable

import pytest
from kit.contracts import PIPE_BUSY, PipeClient
from kit.wine import is_wine

from mini_agent.errors import StartError
from mini_agent.listen.pipe_name import normalize_name

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="named pipes are Windows'")

if sys.platform == "win32":
    import _winapi

    from mini_agent.listen.bind_pipe import bind_pipe

FIRST_INSTANCE = 0x00080000


@pytest.fixture
def path() -> str:
    return normalize_name(f"mini_agent_{uuid.uuid4().hex}")


def test_clients_come_in_before_anybody_accepts_and_as_many_as_instances(path: str) -> None:
    bound = bind_pipe(path, instances=3)
    clients = [PipeClient(path, wait_s=0) for _ in range(3)]
    with pytest.raises(OSError, match=str(PIPE_BUSY)):
        PipeClient(path, wait_s=0)
    for client in clients:
        client.close()
    bound.close()
    bound.close()


def test_a_closed_pipe_is_gone(path: str) -> None:
    bind_pipe(path, instances=2).close()
    with pytest.raises(FileNotFoundError):
        PipeClient(path, wait_s=0)


def test_handles_that_were_taken_are_the_takers(path: str) -> None:
    bound = bind_pipe(path, instances=2)
    handles = bound.take()
    assert bound.take() == []
    bound.close()
    further = bound.make()
    client = PipeClient(path, wait_s=0)
    client.close()
    for handle in (*handles, further):
        _winapi.CloseHandle(handle)


@pytest.mark.skipif(
    sys.platform == "win32" and is_wine(),
    reason="Wine does not look at FILE_FLAG_FIRST_PIPE_INSTANCE; needs Windows itself",
)
def test_a_name_that_is_taken_is_refused(path: str) -> None:
    first = bind_pipe(path)
    with pytest.raises(StartError, match="another program serves that name"):
        bind_pipe(path)
    first.close()


def creating(
    monkeypatch: pytest.MonkeyPatch, refuse: Callable[[int], int | None]
) -> list[tuple[object, ...]]:
    """Let CreateNamedPipe fail with an error where `refuse` of the call's number gives one."""
    calls: list[tuple[object, ...]] = []
    create = _winapi.CreateNamedPipe

    def create_or_refuse(*arguments: object) -> int:
        calls.append(arguments)
        error = refuse(len(calls))
        if error is not None:
            raise OSError(0, "refused", None, error)
        return create(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(_winapi, "CreateNamedPipe", create_or_refuse)
    return calls


def test_every_instance_is_a_local_stream_and_the_first_claims_the_name(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = creating(monkeypatch, lambda _: None)
    bind_pipe(path, instances=3, buffer_bytes=4096).close()
    assert [bool(call[1] & FIRST_INSTANCE) for call in calls] == [True, False, False]  # type: ignore[operator]
    # Byte type and byte reads are 0; 8 rejects clients of other machines.
    assert {call[2] for call in calls} == {8}
    assert {call[4:6] for call in calls} == {(4096, 4096)}
    assert all(call[7] for call in calls), "no security attributes"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(5, "another program serves that name"), (123, "no pipe of that name"), (1450, "refused")],
)
def test_a_pipe_that_cannot_be_had_is_named_with_the_reason(
    path: str, monkeypatch: pytest.MonkeyPatch, error: int, reason: str
) -> None:
    creating(monkeypatch, lambda _: error)
    with pytest.raises(StartError, match=reason) as refused:
        bind_pipe(path)
    assert path in str(refused.value)


def test_a_pipe_of_which_no_further_instance_may_be_made_is_given_back(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a security descriptor that leaves out the right to create instances."""
    creating(monkeypatch, lambda number: 5 if number == 3 else None)
    with pytest.raises(StartError):
        bind_pipe(path)
    with pytest.raises(FileNotFoundError):
        PipeClient(path, wait_s=0)


def test_a_wrong_security_descriptor_is_a_start_error(path: str) -> None:
    with pytest.raises(StartError, match="security descriptor"):
        bind_pipe(path, security_descriptor="everybody, please")


def test_only_this_user_the_system_and_administrators_may_open_it(path: str) -> None:
    bound = bind_pipe(path, instances=1)
    (handle,) = bound.take()
    try:
        described = read_descriptor(handle)
    finally:
        _winapi.CloseHandle(handle)
    assert described.startswith("D:P")
    entries = described.partition("(")[2].rstrip(")").split(")(")
    assert len(entries) == 3
    assert {entry.split(";")[0] for entry in entries} == {"A"}
    accounts = {entry.split(";")[-1] for entry in entries}
    assert {"SY", "BA"} < accounts


def test_a_security_descriptor_of_ones_own_is_taken(path: str) -> None:
    bound = bind_pipe(path, instances=1, security_descriptor="D:P(A;;FA;;;OW)(A;;FA;;;SY)")
    (handle,) = bound.take()
    try:
        assert ";SY)" in read_descriptor(handle)
    finally:
        _winapi.CloseHandle(handle)


def read_descriptor(handle: int) -> str:
    """The access list of a pipe, as SDDL."""
    assert sys.platform == "win32"
    advapi = ctypes.WinDLL("advapi32")
    descriptor, text = ctypes.c_void_p(), ctypes.c_wchar_p()
    kernel_object, dacl, sddl_1 = 6, 4, 1
    assert (
        advapi.GetSecurityInfo(
            ctypes.c_void_p(handle),
            kernel_object,
            dacl,
            None,
            None,
            None,
            None,
            ctypes.byref(descriptor),
        )
        == 0
    )
    assert advapi.ConvertSecurityDescriptorToStringSecurityDescriptorW(
        descriptor, sddl_1, dacl, ctypes.byref(text), None
    )
    return text.value or ""
