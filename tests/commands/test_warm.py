"""A command that starts warm says what one from the shell says, and ends as it does."""

import pytest
from shell import ENVIRONMENT, ROOT, SHELL, WARM, python

ENDS = {
    "a number": "sys.exit(3)",
    "a sentence": "sys.exit('no')",
    "nothing": "sys.exit()",
    "an error": "raise ValueError('no')",
    "a signal": "os.kill(os.getpid(), 9)",
    "what is left for the end": "import atexit; atexit.register(print, 'at the end')",
    "a thread": "import threading; threading.Timer(0.1, print, ['late']).start()",
}


def said(done):
    return done.returncode, done.stdout, done.stderr.splitlines()[-1:]


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_it_ends_as_from_the_shell(end, tmp_path):
    tell = "print(sys.argv, sys.path[0], os.getcwd(), sys.stdin.read(), os.environ['MINE'], sys.stdout.isatty())"
    words = ["-c", f"import os, sys; {tell}; sys.stdout.flush(); {end}", "a word", "é"]
    environment = ENVIRONMENT | {"MINE": "1"}
    warm, real = WARM.run(words, tmp_path, environment), python(*words, cwd=tmp_path, environment=environment)
    assert said(warm) == said(real)


def test_a_script_finds_what_lies_beside_it(tmp_path):
    (tmp_path / "beside.py").write_text("here = True")
    (tmp_path / "script.py").write_text("import sys, beside; print(__name__, sys.argv, beside.here)")
    words = [tmp_path / "script.py", "x=1"]
    assert said(python(*words, cwd=ROOT)) == said(python(*words, cwd=ROOT, **SHELL))


def test_commands_are_warm_unless_a_shell_or_another_environment_is_asked_for(tmp_path):
    (tmp_path / "script.py").write_text("import sys; print('torch' in sys.modules)")
    for how, warm in ({}, True), (SHELL, False), ({"environment": dict(ENVIRONMENT)}, False):
        assert python(tmp_path / "script.py", **how).stdout == f"{warm}\n"
