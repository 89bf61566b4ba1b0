"""An object store on this machine that stops answering, refuses, or answers that it has failed."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

_NAME = "chaos"
_ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
MODES = ("silence", "status 500", "reset connections")


class Bucket:
    """An object store behind a proxy, which passes requests on or does not.

    Attributes:
        mode: one of `MODES`; None while it works.
        environment: with which a command finds it.
    """

    def __init__(self) -> None:
        self.mode: str | None = None
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells of each request
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        _, self._port = self._server.get_host_and_port()
        self._proxy = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()
        keys = {"AWS_ACCESS_KEY_ID": "chaos", "AWS_SECRET_ACCESS_KEY": "chaos"}
        self.environment = {
            **keys,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._proxy.getsockname()[1]}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self._port}",
            region_name="us-east-1",
            **{name.lower(): key for name, key in keys.items()},
        )
        self._client.create_bucket(Bucket=_NAME)

    def address(self, name: str) -> str:
        return f"s3://{_NAME}/{name}"

    def download(self, name: str, folder: Path) -> Path:
        """Brings what is at an address into a folder, past the proxy."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=_NAME, Prefix=f"{name}/")
        keys = {entry["Key"] for page in pages for entry in page.get("Contents", [])}
        wanted = {folder / key.removeprefix(f"{name}/"): key for key in keys if not key.endswith("/")}
        for path in folder.rglob("*"):
            if path.is_file() and path not in wanted:
                path.unlink()
        for path, key in wanted.items():
            with contextlib.suppress(self._client.exceptions.NoSuchKey):
                content = self._client.get_object(Bucket=_NAME, Key=key)["Body"].read()
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        return folder

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._proxy.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        address = "127.0.0.1", self._port
        with contextlib.suppress(OSError), client, socket.create_connection(address) as server:
            threading.Thread(target=self._pass_back, args=(server, client), daemon=True).start()
            while data := client.recv(1 << 16):
                if self.mode == "reset connections":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                if self.mode == "status 500":
                    client.sendall(_ERROR)
                    return
                if self.mode != "silence":
                    server.sendall(data)

    @staticmethod
    def _pass_back(server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                client.sendall(data)

    def close(self) -> None:
        self._proxy.close()
        self._server.stop()
