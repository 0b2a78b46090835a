"""Python processes that start at once: copies of one process that has imported torch and transformers already.

Starting Python, torch and transformers takes some seconds of a core, and `make repro` starts a hundred processes: two
for each notebook (its runner and its kernel), and DVC. `serve` imports everything once and waits at a Unix socket.
Inside `warm_python` the command ``python`` is this file, run as a script: it asks the server for a copy of itself that
runs the module of ``python -m MODULE ARGUMENT...`` in its place.

The copy has the caller's standard streams, environment and folder, gets its signals, and ends with it. Nothing else is
different: without a server the same commands work, only slower.
"""

import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import NoReturn

SOCKET = "THINSIGHT_WARM"
"""Environment variable: the path of the server's socket. Without it everything starts anew."""

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def ask(module: str, arguments: Sequence[str]) -> int | None:
    """Let the server run ``module``; its exit status, or None where there is no server."""
    path = os.environ.get(SOCKET)
    if not path:
        return None
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(path)
    except OSError:
        return None
    with server:
        wanted = {
            "module": module,
            "arguments": list(arguments),
            "folder": str(Path.cwd()),
            "environment": dict(os.environ),
        }
        text = json.dumps(wanted).encode()
        socket.send_fds(server, [struct.pack("!I", len(text))], [0, 1, 2])
        server.sendall(text)
        for number in FORWARDED:
            signal.signal(number, lambda number, _: server.sendall(bytes([number])))
        status = server.recv(1)
        return status[0] if status else 1


def serve(path: Path, modules: Sequence[str]) -> NoReturn:
    """Import ``modules``, then answer requests at the socket ``path`` until killed. Has to be the only thread.

    Of ``module:function`` the function is called, too: what it leaves in caches is there in the copies.
    """
    sys.path.pop(0)  # the folder of this file
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)  # who comes early waits
    for name in modules:
        module, _, function = name.partition(":")
        imported = import_module(module)
        if function:
            getattr(imported, function)()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # copies that end leave nothing to wait for
    while True:
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _run(client)
        client.close()


def _run(client: socket.socket) -> NoReturn:
    """Be the process that the client asks for."""
    status = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        head, streams, _, _ = socket.recv_fds(client, 4, 3)
        (size,) = struct.unpack("!I", head)
        wanted = json.loads(client.recv(size, socket.MSG_WAITALL))
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
        sys.stderr = sys.__stderr__ = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
        os.chdir(wanted["folder"])
        os.environ.clear()
        os.environ.update(wanted["environment"])
        paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        sys.path[:0] = [wanted["folder"], *(path for path in paths if path not in sys.path)]
        threading.Thread(target=_follow, args=(client,), daemon=True).start()
        sys.argv = [wanted["module"], *wanted["arguments"]]
        if not hasattr(sys.modules.get(wanted["module"]), "__path__"):
            sys.modules.pop(wanted["module"], None)  # of a package its __main__ runs
        runpy.run_module(wanted["module"], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = status or 1
    client.sendall(bytes([status & 255]))
    os._exit(status)


def _follow(client: socket.socket) -> None:
    """Take the client's signals; where it is gone, end this process and those that it has started."""
    while True:
        number = client.recv(1)
        if not number:
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), number[0])


@contextmanager
def warm_python(modules: Sequence[str]) -> Iterator[dict[str, str]]:
    """The environment in which ``python -m`` and Jupyter's kernels start as copies of a process with ``modules``."""
    with tempfile.TemporaryDirectory(prefix="thinsight-") as name:
        folder = Path(name)
        python = folder / "bin" / "python"
        python.parent.mkdir()
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{__file__}" "$@"\n', encoding="utf-8")
        python.chmod(0o755)
        kernel = folder / "jupyter" / "kernels" / "python3" / "kernel.json"
        kernel.parent.mkdir(parents=True)
        launch = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}", "--IPKernelApp.parent_handle=1"]
        spec = {"argv": launch, "display_name": "Python 3 (ipykernel)", "language": "python"}
        kernel.write_text(json.dumps(spec), encoding="utf-8")
        environment = os.environ | {
            SOCKET: str(folder / "socket"),
            "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "JUPYTER_PATH": os.pathsep.join(filter(None, [str(folder / "jupyter"), os.environ.get("JUPYTER_PATH")])),
        }
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve", *modules],
            env=environment,
            start_new_session=True,
        )
        try:
            while not (folder / "socket").exists() and server.poll() is None:
                time.sleep(0.05)
            yield environment
        finally:
            server.kill()
            server.wait()


def main(arguments: list[str]) -> NoReturn:
    """What ``python`` does with ``arguments``."""
    if arguments[:1] == ["--serve"]:
        serve(Path(os.environ[SOCKET]), arguments[1:])
    status = ask(arguments[1], arguments[2:]) if arguments[:1] == ["-m"] else None
    if status is None:
        os.execv(sys.executable, [sys.executable, *arguments])
    sys.exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
