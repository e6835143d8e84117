"""entity: what the kernel says about the container, in the forms that are out there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mini_agent.entity import find_container_id, request_headers

DOCKER = "9d5b23edb1ba181e8910389a99906598d69ac9a0ead109ee55730cc416d95f7f"
UUID = "34dc0b5e-626f-2c5c-4c51-70e34b10e765"
FARGATE = "432624d2150b349fe35ba397284dea78-4294967296"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"13:name=systemd:/docker/{DOCKER}", DOCKER),
        (f"1:name=systemd:/system.slice/docker-{DOCKER}.scope", DOCKER),
        (f"11:perf_event:/kubepods/besteffort/pod{UUID}/{DOCKER}", DOCKER),
        (f"1:name=systemd:/ecs/55091c13-b8cf-4801-b527-f4601742204d/{FARGATE}", FARGATE),
        (f"1:name=systemd:/ecs/task/{DOCKER}.scope/nested", DOCKER),
        (f"12:rdma:/garden/{UUID}", UUID),
        ("12:rdma:/garden/6f265890-5165-7fab-6b52-18d1", "6f265890-5165-7fab-6b52-18d1"),
        (f"10:devices:/kubepods/pod2d3da189_6407_48e3_9ab6_78188d75e609/{DOCKER}  ", DOCKER),
        ("0::/", None),
        ("11:hugetlb:/user.slice/user-1000.slice", None),
        ("not a line", None),
        (f"x:name:/docker/{DOCKER}", None),
    ],
)
def test_container_ids(line: str, expected: str | None) -> None:
    assert find_container_id([line]) == expected


def test_the_first_line_with_an_id_counts() -> None:
    assert find_container_id(["0::/", f"2:cpu:/docker/{DOCKER}", f"3:x:/{UUID}"]) == DOCKER


def test_a_container_id_names_the_entity_too(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text(f"0::/docker/{DOCKER}\n")
    assert request_headers(str(tmp_path / "cgroup")) == {
        "datadog-container-id": DOCKER,
        "datadog-entity-id": f"ci-{DOCKER}",
    }


@pytest.mark.parametrize(("line", "folder"), [("0::/here", "here"), ("4:memory:/m", "memory/m")])
def test_without_an_id_the_inode_names_the_entity(tmp_path: Path, line: str, folder: str) -> None:
    (tmp_path / "cgroup").write_text(f"5:cpu:/c\n{line}\n")
    ours = tmp_path / "root" / folder
    ours.mkdir(parents=True)
    headers = request_headers(
        str(tmp_path / "cgroup"), str(tmp_path / "root"), str(tmp_path / "cgroup")
    )
    assert headers == {"datadog-entity-id": f"in-{ours.stat().st_ino}"}


def test_where_there_are_no_control_groups_there_is_nothing_to_tell(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    assert request_headers(missing, missing, missing) == {}
