"""Keeps one separate process that runs models, so that not every run starts an interpreter and onnxruntime anew."""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

_SCRIPT = Path(__file__).with_name("run_apart.py")


class Worker:
    """The process behind `runtime.apart`: started when there is something to run, and again where it ended.

    It ends by itself when it has had nothing to do for a minute, and after a run that left it with much memory.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._lock = threading.Lock()
        atexit.register(self.close)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._let_go)

    def run(self, folder: Path, memory: int, seconds: int) -> bool:
        """Run the model in a folder, as `run_apart` describes it; one at a time.

        Args:
            folder: of the model, its inputs and the request.
            memory: bytes that the process may have.
            seconds: of processor time that the run may take. It is ended after three times as many.

        Returns:
            Whether the results are in the folder.
        """
        request = json.dumps([str(folder), memory, seconds])
        with self._lock:
            answer = self._ask(request, 3 * seconds) if self._waits() else ""
            if not answer:  # there was none, or it ended before it took the request
                self._start()
                answer = self._ask(request, 3 * seconds)
        return answer == "done"

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():  # a fork of the program leaves it to its parent
            process.kill()
            with contextlib.suppress(BrokenPipeError), process:  # closes its pipes, one of which may hold a request
                pass

    def _let_go(self) -> None:
        """In a fork of the program, where no thread lives on that may have held the lock."""
        self._lock = threading.Lock()

    def _waits(self) -> bool:
        return self._process is not None and self._owner == os.getpid() and self._process.poll() is None

    def _start(self) -> None:
        self.close()
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        command = [sys.executable, str(_SCRIPT)]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nothing, text=True)
        self._owner = os.getpid()

    def _ask(self, request: str, seconds: int) -> str:
        """The process's answer; "failed" where it ended over it, nothing where it did not take the request."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return ""
        end = threading.Timer(seconds, process.kill)
        end.start()
        try:
            print(request, file=process.stdin, flush=True)
            taken = process.stdout.readline()
            return (process.stdout.readline().strip() or "failed") if taken else ""
        except OSError:  # a broken pipe
            return ""
        finally:
            end.cancel()
