"""When garbage in cycles is not looked for: while much is made that stays, and at the end of a process."""

import gc
import subprocess
import sys

import pytest

from paribus.garbage import uncollected


def test_nothing_is_collected_and_then_it_is_again():
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), uncollected():
        raise ZeroDivisionError
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()  # as it was before
    finally:
        gc.enable()


def test_a_process_ends_with_its_code_and_its_last_words():
    code = (
        "import atexit, gc, os, sys; from paribus.garbage import end_at_once; end_at_once()\n"
        "atexit.register(lambda: print('an end', file=sys.stderr))\n"
        "class Late:\n    def __del__(self): os.write(2, b'too late')\n"
        "late = Late(); late.itself = late\n"  # only a search would find it
        "print('said'); sys.exit(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "said\n", "an end\n")
