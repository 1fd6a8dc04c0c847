"""What a command's processes listen on while it runs, and whether a port lets strangers in."""

from __future__ import annotations

import ipaddress
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
import psutil
from ray.serve.generated.serve_pb2 import ASGIRequest
from ray.serve.generated.serve_pb2_grpc import ASGIServiceStub

POLL_S = 0.2
CALL_TIMEOUT_S = 10


@dataclass(frozen=True)
class Port:
    """A socket that takes what strangers send: it listens, or is UDP and connected to nobody."""

    kind: str
    address: str
    number: int
    process: str
    pid: int

    @property
    def is_on_loopback(self) -> bool:
        return ipaddress.ip_address(self.address.removeprefix("::ffff:")).is_loopback


class Running:
    """A command in a process of its own, watched: `ports` are those it had open at any time."""

    def __init__(self, *words: str, folder: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_A")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli", *words],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.ports: set[Port] = set()
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._watch.join()
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(timeout=60)

    def finish(self, *, timeout_s: float) -> str:
        """Wait for a good end; what the command printed."""
        output, _ = self.process.communicate(timeout=timeout_s)
        assert self.process.returncode == 0, output[-3000:]
        return output

    def open_to_others(self) -> list[Port]:
        """Ports that other machines reach."""
        assert len(self.ports) > 3, "nothing was seen"
        return sorted((port for port in self.ports if not port.is_on_loopback), key=str)

    def _look(self) -> None:
        while not self._stop.wait(POLL_S):
            self.ports |= ports_below(self.process.pid)


def ports_below(pid: int) -> set[Port]:
    """Of a process and all its descendants, now."""
    found = set()
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return set()
    for process in family:
        try:
            name = " ".join(process.cmdline())[:60]
            for seen in process.net_connections("inet"):
                takes_calls = seen.status == psutil.CONN_LISTEN or (seen.type == socket.SOCK_DGRAM and not seen.raddr)
                if takes_calls and seen.laddr:
                    kind = "udp" if seen.type == socket.SOCK_DGRAM else "tcp"
                    found.add(Port(kind, seen.laddr.ip, seen.laddr.port, name, process.pid))
        except psutil.Error:  # it has just ended
            continue
    return found


class WritesFile:
    """Unpickling this writes a file: what a stranger would do first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


def outcome_of_call(
    port: int, proof: Path, *, keys: grpc.ChannelCredentials | None, metadata: Mapping[str, str] | None = None
) -> grpc.StatusCode:
    """How Ray Serve's port between deployments answers a call whose pickle makes the folder `proof`."""
    target = f"127.0.0.1:{port}"
    channel = grpc.insecure_channel(target) if keys is None else grpc.secure_channel(target, keys)
    request = ASGIRequest(pickled_request_metadata=pickle.dumps(WritesFile(proof)))
    with channel:
        try:
            ASGIServiceStub(channel).HandleRequest(
                request, timeout=CALL_TIMEOUT_S, metadata=list((metadata or {}).items())
            )
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK
