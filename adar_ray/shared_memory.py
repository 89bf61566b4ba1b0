"""Tensors between workers of one machine, through memory that they share.

Gloo would send them through the network stack of the machine, at several times the price of a copy.
"""

from __future__ import annotations

import mmap
import os
import secrets
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from adar_ray.errors import AdarError

_SLOT = 1 << 36  # address space; memory is taken as messages fill it
_ALIGN = 64
_TRIES = 2000  # before a worker lets the system wake it up, which takes longer than most waits
_NAME = 32  # characters of a socket's name


class SharedMemory:
    """The workers of a run, all of them on this machine.

    Each has two slots of memory, which take turns, and that the others read. What a call returns may lie in
    a slot: it is valid until the second call after it.
    """

    def __init__(self, rank: int, memory: Sequence[mmap.mmap], sockets: dict[int, socket.socket]) -> None:
        self.rank, self.size, self._sockets = rank, len(memory), sockets
        whole = [torch.frombuffer(part, dtype=torch.uint8) for part in memory]
        self._slots = [(part[:_SLOT], part[_SLOT:]) for part in whole]
        self._turn, self._used = 0, 0

    @classmethod
    def connect(cls) -> SharedMemory | None:
        """Connects the workers of `torch.distributed`; None if they are not all on this machine.

        Every worker calls it, and all get an answer of the same kind.
        """
        rank, size = dist.get_rank(), dist.get_world_size()
        name = secrets.token_hex(_NAME // 2)
        cards = _gathered(f"{_machine():>64}{name}".encode())
        if not cards[0][:64].strip() or any(card[:64] != cards[0][:64] for card in cards):
            return None
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(_address(name))
            listener.listen(size)
            _gathered(b"listening")
            file = os.memfd_create("adar-ray")
            os.ftruncate(file, 2 * _SLOT)
            files: list[int] = [file] * size
            sockets: dict[int, socket.socket] = {}
            for other in range(rank):
                peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                peer.connect(_address(cards[other][64:].decode()))
                socket.send_fds(peer, [struct.pack("q", rank)], [file])
                _, (files[other],), _, _ = socket.recv_fds(peer, 8, 1)
                sockets[other] = peer
            while len(sockets) < size - 1:
                peer, _ = listener.accept()
                if not _is_same_user(peer):
                    peer.close()
                    continue
                head, (received,), _, _ = socket.recv_fds(peer, 8, 1)
                other = struct.unpack("q", head)[0]
                socket.send_fds(peer, [struct.pack("q", rank)], [file])
                files[other], sockets[other] = received, peer
        memory = [mmap.mmap(part, 2 * _SLOT) for part in files]
        for part in files:
            os.close(part)
        return cls(rank, memory, sockets)

    def close(self) -> None:
        for peer in self._sockets.values():
            peer.close()

    def share(self, tensor: torch.Tensor) -> None:
        """Moves a tensor, equal on all workers, to memory that they share."""
        size = tensor.numel() * tensor.dtype.itemsize
        file = os.memfd_create("adar-ray") if self.rank == 0 else -1
        if self.rank == 0:
            os.ftruncate(file, max(size, 1))
            for peer in self._sockets.values():
                socket.send_fds(peer, [b" "], [file])
        else:
            _, (file,), _, _ = socket.recv_fds(self._sockets[0], 1, 1)
        memory = mmap.mmap(file, max(size, 1))
        os.close(file)
        shared = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel()).view(tensor.shape)
        if self.rank == 0:
            shared.copy_(tensor)
        tensor.data = shared
        self.wait()

    def wait(self) -> None:
        """Returns when all workers are here."""
        self.gather([torch.empty(0)])

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor to fill and to send with the next call, which then copies nothing."""
        size = torch.Size(shape).numel() * dtype.itemsize
        start, self._used = self._used, self._used + -(-size // _ALIGN) * _ALIGN
        if self._used > _SLOT:
            raise AdarError(f"workers of one machine cannot exchange more than {_SLOT >> 30} GiB at once")
        return self._slots[self.rank][self._turn][start : start + size].view(dtype).view(*shape)

    def exchange(self, sent: Sequence[Sequence[torch.Tensor]]) -> list[list[torch.Tensor]]:
        """Sends the tensors `sent[w]` to worker `w`; returns those that each worker has sent here.

        The tensors for all workers are alike but for their number of rows.
        """
        heads = [self._head(tensors) if other != self.rank else [] for other, tensors in enumerate(sent)]
        return self._deliver(heads, sent[self.rank])

    def gather(self, tensors: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
        """`exchange` that sends the same to everyone."""
        return self._deliver([self._head(tensors)] * self.size, tensors)

    def _head(self, tensors: Sequence[torch.Tensor]) -> list[int]:
        """Where in this turn's slot the tensors are, and how many rows they have."""
        slot = self._slots[self.rank][self._turn].data_ptr()
        head = []
        for tensor in tensors:
            if not tensor.numel():
                head += [0, len(tensor)]
                continue
            if not slot <= tensor.data_ptr() < slot + _SLOT:
                tensor = self.empty(tensor.shape, tensor.dtype).copy_(tensor)
            head += [tensor.data_ptr() - slot, len(tensor)]
        return head

    def _deliver(self, heads: list[list[int]], own: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
        turn, form = self._turn, f"{len(own) * 2}q"
        for other in self._sockets:
            self._send(other, struct.pack(form, *heads[other]))
        received = []
        for other in range(self.size):
            if other == self.rank:
                received.append(list(own))
                continue
            head = struct.unpack(form, self._read(other, struct.calcsize(form)))
            slot = self._slots[other][turn]
            tensors = []
            for tensor, start, rows in zip(own, head[::2], head[1::2], strict=True):
                shape = rows, *tensor.shape[1:]
                size = torch.Size(shape).numel() * tensor.dtype.itemsize
                tensors.append(slot[start : start + size].view(tensor.dtype).view(shape))
            received.append(tensors)
        # Everyone has read the slot before this one: a worker sends again only when it is done with that.
        self._turn, self._used = 1 - turn, 0
        return received

    def _send(self, other: int, content: bytes) -> None:
        try:
            self._sockets[other].sendall(content)
        except ConnectionError as error:
            raise ConnectionError(f"worker {other} is gone") from error

    def _read(self, other: int, size: int) -> bytes:
        """Waits for a message of the given size."""
        peer = self._sockets[other]
        content, tries = b"", 0
        while len(content) < size:
            try:
                more = peer.recv(size - len(content), socket.MSG_DONTWAIT if tries < _TRIES else 0)
            except BlockingIOError:
                tries += 1
                continue
            except ConnectionError:
                more = b""
            if not more:
                raise ConnectionError(f"worker {other} is gone")
            content += more
        return content


def _machine() -> str:
    """What tells whether sockets of the machine connect two processes; empty if there are none such."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/net').st_ino}"
    except OSError:
        return ""


def _address(name: str) -> str:
    return f"\0adar-ray-{name}"


def _gathered(content: bytes) -> list[bytes]:
    own = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    cards = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(cards, own)
    return [card.numpy().tobytes() for card in cards]


def _is_same_user(peer: socket.socket) -> bool:
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(user == os.getuid())
