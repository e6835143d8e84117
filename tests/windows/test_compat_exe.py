"""`mini-agent-compat` on Windows, where it is the .exe that pip writes, under the real layer."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import sysconfig
import uuid
import zipfile
from collections.abc import Callable
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import pytest
from kit.agent import AgentProcess, ChildProcess
from kit.intake import Intake
from kit.payloads import encode, make_traces, span_ids
from kit.wine import windows_environment

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
LAYER = "datadog-serverless-compat"

# What pip packs behind its launcher for the entry point in pyproject.toml.
SCRIPT = """\
import sys
from mini_agent.compat import main
sys.exit(main())
"""


@pytest.fixture(scope="session")
def script(windows_python: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The installed .exe; under Wine one that is made as pip makes it, of pip's own launcher."""
    if sys.platform == "win32":
        installed = shutil.which("mini-agent-compat", path=sysconfig.get_path("scripts"))
        assert installed is not None
        return installed
    # The launcher runs the interpreter of its first line with itself, an archive, as the program.
    launcher = resources.files("pip._vendor.distlib") / "t64.exe"
    python = Path(windows_python).parents[1] / "py" / "python.exe"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("__main__.py", SCRIPT)
    first_line = f"#!Z:{python}\r\n".replace("/", "\\").encode()
    made = tmp_path_factory.mktemp("scripts") / "mini-agent-compat.exe"
    made.write_bytes(launcher.read_bytes() + first_line + archive.getvalue())
    return str(made)


@pytest.fixture(scope="session")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the layer's package and nothing else."""
    try:
        files = metadata.files(LAYER) or []
    except metadata.PackageNotFoundError:
        pytest.skip("the compatibility layer is not installed")
    folder = tmp_path_factory.mktemp("layer")
    for file in files:
        if file.suffix == ".py" or file.name == "METADATA":
            (folder / file).parent.mkdir(exist_ok=True)
            shutil.copy(str(file.locate()), folder / file)
    return folder


def test_the_real_layer_starts_our_agent_which_ends_with_the_application(
    intake: Intake,
    windows_python: str,
    script: str,
    layer: Path,
    send: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    pipe = f"mini_agent_{uuid.uuid4().hex}"
    settings = {
        **windows_environment(),
        "DD_API_KEY": "a-key-for-tests",
        "DD_APM_DD_URL": intake.url,
        "DD_APM_RECEIVER_PORT": "0",
        "DD_APM_WINDOWS_PIPE_NAME": pipe,
        "DD_SERVERLESS_COMPAT_PATH": script,
        "FUNCTIONS_EXTENSION_VERSION": "~4",
        "FUNCTIONS_WORKER_RUNTIME": "python",
        "WEBSITE_SITE_NAME": "site",
        "MINI_AGENT_JOURNAL_DIR": str(tmp_path / "journal"),
        # What is delivered sooner is delivered because the agent ends.
        "MINI_AGENT_FLUSH_INTERVAL_S": "60",
    }
    command = [windows_python, str(HERE / "programs" / "layered_app.py"), str(layer)]
    ready = AgentProcess.READY
    with ChildProcess(command, settings, tmp_path, ready, subprocess.PIPE) as application:
        application.wait_ready()
        made = make_traces(2, 3)
        assert application.send(encode(made))[0] == 200
        by_pipe = send(f"\\\\.\\pipe\\{pipe}")
        application.kill()
        application.wait_line(lambda line: "balanced" in line or "BALANCE" in line)
    assert intake.ids == span_ids(made) | set(by_pipe["ids"])
    (tag,) = {span.meta["_dd.serverless_compat_version"] for span in intake.spans()}
    assert re.fullmatch(r"\d+\.\d+\.\d+", tag)
