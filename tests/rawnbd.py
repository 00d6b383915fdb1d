# SPDX-License-Identifier: GPL-2.0
"""An NBD client of few words, for tests that must say what no decent client says."""

import socket
import struct
import time

NBDMAGIC = b"NBDMAGIC"
IHAVEOPT = b"IHAVEOPT"
REQUEST = 0x25609513
SIMPLE = 0x67446698
CHUNK = 0x668E33EF
OPTION_REPLY = 0x3E889045565A9

EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED = 1, 2, 3, 5, 6, 7, 8
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZERO, STATUS = range(8)
FUA, NO_HOLE, DF = 1, 2, 4
EPERM, EIO, EINVAL, ENOSPC, EOVERFLOW = 1, 5, 22, 28, 75
ACK, SERVER, REP_INFO = 1, 2, 3
ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_UNKNOWN, ERR_TOO_BIG = (0x80000000 | n for n in (1, 2, 3, 6, 9))
# DST's own option, and the first reply to it.
DST = 0x5C1F93A6


class Gone(Exception):
    """The server closed the connection."""


class Client:
    """A connection; `structured` says how replies are read."""

    def __init__(self, host="127.0.0.1", port=10809, timeout=20):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect((host, port))
        self.structured = False
        self.cookie = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        """Sends all of `data`."""
        try:
            self.sock.sendall(data)
        except (ConnectionError, BrokenPipeError) as error:
            raise Gone from error

    def receive(self, length):
        """Receives exactly `length` bytes."""
        parts = []
        while length:
            try:
                part = self.sock.recv(min(length, 1 << 20))
            except ConnectionError as error:
                raise Gone from error
            if not part:
                raise Gone
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def is_gone(self, seconds=20):
        """Waits for the server to close the connection; says whether it did. Other data are thrown away."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.sock.settimeout(max(0.01, end - time.monotonic()))
            try:
                if not self.sock.recv(1 << 16):
                    return True
            except (ConnectionError, BrokenPipeError):
                return True
            except socket.timeout:
                return False
        return False

    def reset(self):
        """Closes with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # Handshake

    def greet(self, flags=3):
        """Takes the greeting, and answers."""
        assert self.receive(8) == NBDMAGIC
        assert self.receive(8) == IHAVEOPT
        offered, = struct.unpack(">H", self.receive(2))
        self.send(struct.pack(">I", flags))
        return offered

    def option(self, option, payload=b"", length=None):
        """Sends an option, perhaps with a length that is a lie."""
        length = len(payload) if length is None else length
        self.send(IHAVEOPT + struct.pack(">II", option, length) + payload)

    def option_reply(self):
        """Receives one reply to an option: (option, kind, payload)."""
        magic, option, kind, length = struct.unpack(">QIII", self.receive(20))
        assert magic == OPTION_REPLY, hex(magic)
        return option, kind, self.receive(length)

    def negotiate(self, option, payload=b""):
        """Sends an option, and gives all its replies, the last one last."""
        self.option(option, payload)
        replies = []
        while True:
            answered, kind, data = self.option_reply()
            assert answered == option
            replies.append((kind, data))
            if kind not in (SERVER, REP_INFO, DST):
                return replies

    @staticmethod
    def fence(storage, head, epoch, version=1, reserved=0):
        """The payload of DST."""
        return struct.pack(">II16s16sQ", version, reserved, storage, head, epoch)

    @staticmethod
    def named(name, infos=()):
        """The payload of INFO and GO."""
        name = name.encode() if isinstance(name, str) else name
        return (struct.pack(">I", len(name)) + name + struct.pack(">H", len(infos))
                + b"".join(struct.pack(">H", info) for info in infos))

    def go(self, name="", structured=False):
        """The whole handshake; gives (size, flags)."""
        self.greet()
        if structured:
            assert self.negotiate(STRUCTURED)[-1][0] == ACK
            self.structured = True
        replies = self.negotiate(GO, self.named(name))
        assert replies[-1][0] == ACK, replies
        for kind, data in replies:
            if kind == REP_INFO and data[:2] == b"\0\0":
                return struct.unpack(">QH", data[2:])
        raise AssertionError("no size")

    # Transmission

    @staticmethod
    def request(command, offset=0, length=0, flags=0, cookie=0, magic=REQUEST):
        """The bytes of a request's header."""
        return struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length)

    def ask(self, command, offset=0, length=0, flags=0, data=b""):
        """Sends a request; gives its cookie."""
        self.cookie += 1
        self.send(self.request(command, offset, length, flags, self.cookie) + data)
        return self.cookie

    def reply(self, lengths=None):
        """Receives one whole reply: (cookie, error, data). `lengths`: of reads, by cookie."""
        data = {}
        while True:
            magic, = struct.unpack(">I", self.receive(4))
            if magic == SIMPLE:
                assert not self.structured
                error, cookie = struct.unpack(">IQ", self.receive(12))
                length = (lengths or {}).get(cookie, 0)
                return cookie, error, b"" if error else self.receive(length)
            assert magic == CHUNK and self.structured, hex(magic)
            flags, kind, cookie, length = struct.unpack(">HHQI", self.receive(16))
            payload = self.receive(length)
            error = 0
            if kind & 0x8000:
                error, = struct.unpack(">I", payload[:4])
            elif kind == 1:
                offset, = struct.unpack(">Q", payload[:8])
                data[offset] = payload[8:]
            else:
                assert kind == 0 and not payload
            if flags & 1:
                return cookie, error, b"".join(data[at] for at in sorted(data))

    def call(self, command, offset=0, length=0, flags=0, data=b""):
        """A request and its reply: (error, data)."""
        cookie = self.ask(command, offset, length, flags, data)
        answered, error, received = self.reply({cookie: length} if command == READ else None)
        assert answered == cookie, (answered, cookie)
        return error, received

    def read(self, offset, length, flags=0):
        """Reads."""
        error, data = self.call(READ, offset, length, flags)
        assert error == 0, error
        assert len(data) == length
        return data

    def write(self, offset, data, flags=0):
        """Writes."""
        error, _ = self.call(WRITE, offset, len(data), flags, data)
        assert error == 0, error
