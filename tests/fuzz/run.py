"""`make fuzz`: every target for its share of the time, a line each; status 1 on any fault.

Coverage guides the inputs (Atheris, which drives libFuzzer): that of plain modules, for compiled
ones show none. So a target is played on the plain twin first, and what was learned there is where
the compiled one begins, if there is one. A fault is anything raised that is
not the named error, an input that takes longer than five seconds, or more than a gibibyte of
memory; the input is saved in build/fuzz/TARGET. What was learned stays in build/fuzz/TARGET/corpus
and is where the next run begins.

To see a fault again: .venv/bin/python tests/fuzz/run.py TARGET --replay FILE; on the plain twin
with MINI_AGENT_PLAIN=1.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

# Before Atheris, which then stands in front of what passes over extensions, and instruments.
from mini_agent import twins  # noqa: E402

BUILD = ROOT / "build" / "fuzz"

# Recorded payloads have a few hundred bytes to this many; longer seeds are cut, which is input too.
INPUT_BYTES_MAX = 24_000
INPUT_S_MAX = 5
RSS_MIB_MAX = 1024
# What a process may take beyond its time: its start, its last input, its farewell.
MARGIN_S = 60

_DONE = re.compile(r"^#(\d+)\s.* cov: (\d+) ft: (\d+) corp: (\d+)/.*$", re.MULTILINE)


def play(name: str, arguments: list[str]) -> None:
    """Play one target in this process, which ends with it.

    Args:
        arguments: For libFuzzer: options, and the corpus or a single input.
    """
    import atheris

    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["mini_agent"]):
        from fuzz.targets import TARGETS
    target = TARGETS[name]()
    folder = BUILD / name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed[:INPUT_BYTES_MAX])
    options = [
        f"-max_len={INPUT_BYTES_MAX}",
        f"-timeout={INPUT_S_MAX}",
        f"-rss_limit_mb={RSS_MIB_MAX}",
        f"-artifact_prefix={folder}/",
    ]
    if target.words:
        words = folder / "words"
        words.write_text("".join(map(_quoted, target.words)), encoding="ascii")
        options.append(f"-dict={words}")
    atheris.Setup([sys.argv[0], *options, *arguments], target.run)
    atheris.Fuzz()


def _quoted(word: str) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"\n'


def watch(name: str, twin: str, seconds: int) -> bool:
    """Play one target in a process of its own and print its line; true without a fault."""
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"log-{twin}"
    environment = {key: text for key, text in os.environ.items() if key != twins.VARIABLE}
    if twin == twins.PLAIN:
        environment[twins.VARIABLE] = "1"
    command = [sys.executable, __file__, name, "--play"]
    command += [f"-max_total_time={seconds}", str(folder / "corpus")]
    began = time.monotonic()
    with log.open("wb") as output:
        try:
            status: int | str = subprocess.run(
                command,
                env=environment,
                stdout=output,
                stderr=output,
                timeout=seconds + MARGIN_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            status = "it did not end"
    text = log.read_text(encoding="utf-8", errors="replace")
    progress = _DONE.findall(text)
    runs, blocks, features, inputs = map(int, progress[-1]) if progress else (0, 0, 0, 0)
    took_s = time.monotonic() - began
    figures = f"{runs:>9,} inputs  {blocks:>6,} edges  {features:>6,} features"
    print(f"{name:<16} {twin:<8} {figures}  {inputs:>5,} kept  {took_s:>4.0f} s", flush=True)
    if status == 0 and runs:
        return True
    saved = re.findall(r"Test unit written to (.*)$", text, re.MULTILINE)
    raised = [line for line in text.splitlines() if re.match(r"^(\w+\.)*\w+(Error|Exit)\b", line)]
    killed = re.findall(r"ERROR: libFuzzer: (.*)$", text, re.MULTILINE)
    reasons = raised[-1:] or killed[:1] or [f"status {status}"]
    print(f"    FAULT: {reasons[0]}", flush=True)
    print(f"    input: {', '.join(saved) or 'none saved'}; all of it in {log}", flush=True)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz everything that reads foreign bytes.")
    parser.add_argument("targets", nargs="*", help="all of them by default")
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together")
    parser.add_argument("--replay", metavar="FILE", help="give one input to one target")
    parser.add_argument("--play", dest="arguments", nargs=argparse.REMAINDER, help="used by itself")
    chosen = parser.parse_args()
    if chosen.replay or chosen.arguments is not None:
        [name] = chosen.targets
        play(name, [chosen.replay] if chosen.replay else chosen.arguments)
        return 0
    from fuzz.targets import TARGETS

    names = chosen.targets or list(TARGETS)
    ways = list(dict.fromkeys((twins.PLAIN, twins.running())))
    # Where the twins are compared, both run in one process.
    played = {name: ways[-1:] if name.startswith("twins-") else ways for name in names}
    count = sum(map(len, played.values()))
    at_once = min(os.cpu_count() or 1, len(names), 2)
    seconds = max(1, chosen.seconds * at_once // count)
    print(f"{len(names)} targets, {count} plays, {at_once} at once, {seconds} s each", flush=True)

    def watch_all(name: str) -> list[bool]:
        return [watch(name, twin, seconds) for twin in played[name]]

    with ThreadPoolExecutor(at_once) as pool:
        clean = [each for all_of_one in pool.map(watch_all, names) for each in all_of_one]
    print(f"{count} plays, {clean.count(False)} with a fault")
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())
