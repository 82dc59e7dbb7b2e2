"""Commands that start at once: forks of an interpreter that has imported what they need.

Each is a process of its own, with the arguments, folder, environment and end that it has from the shell; what it is
spared is seconds of imports. What a command imports, and when, is tested with one that `shell.python` starts.
"""

import atexit
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

_NEEDED = (
    "commands.train", "commands.finished", "commands.sweeps.report", "studies.proxies.study", "training.fit",
    "training.validation", "report.dashboard",
)  # fmt: skip


class Interpreter:
    """An interpreter that waits for commands, one at a time."""

    def __init__(self):
        self._process = None

    def run(self, words, cwd, environment, limit=None, timeout=480):
        """`python *words`, as subprocess.run gives it; limit: KiB that a file may have."""
        if self._process is None or self._process.poll() is not None:
            pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._process = subprocess.Popen([sys.executable, __file__], bufsize=0, **pipes)
        with tempfile.TemporaryDirectory() as folder:
            said = [Path(folder, name) for name in ("out", "err")]
            for path in said:
                path.touch()
            asked = dict(words=[str(word) for word in words], cwd=str(cwd), environment=environment, limit=limit)
            self._process.stdin.write(json.dumps(asked | {"said": list(map(str, said))}).encode() + b"\n")
            pid = int(self._process.stdout.readline())
            if not select.select([self._process.stdout], [], [], timeout)[0]:
                os.kill(pid, signal.SIGKILL)
                self._process.stdout.readline()
                raise subprocess.TimeoutExpired(words, timeout, *(path.read_text(errors="replace") for path in said))
            code = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(words, code, *(path.read_text(errors="replace") for path in said))


def _asked():
    """In a fork, what the command is; None once nobody asks any more."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            return json.loads(line)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    return None


def _become(words, cwd, environment, limit, said):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, path in enumerate((os.devnull, *said)):
        opened = os.open(path, os.O_RDWR)
        os.dup2(opened, number)
        os.close(opened)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * limit, 1024 * limit))
    code = 1
    try:
        if words[0] == "-c":
            sys.argv, sys.path[0] = ["-c", *words[2:]], ""
            exec(words[1], {"__name__": "__main__"})
        else:
            sys.argv, sys.path[0] = words, str(Path(words[0]).absolute().parent)
            runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
    # What Python does at its end, but for taking down all modules, which copies most of this process's memory
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    for _module in _NEEDED:
        importlib.import_module(f"skipstone.{_module}")
    gc.freeze()
    if _command := _asked():
        _become(**_command)
