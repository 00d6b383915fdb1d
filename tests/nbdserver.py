#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""An NBD server for tests: it keeps its data in memory or in a file, writes down every request, and misbehaves on demand.

As a module: Server(...) with the hooks on_connect and on_request. As a command:

    nbdserver.py --port 10900 --size 16777216 --flags flush,fua --log FILE [--file FILE] [--simple]

The log has a line for each request: CONNECTION COMMAND FLAGS OFFSET LENGTH.
"""

import argparse
import socket
import struct
import sys
import threading
import time
import zlib

READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES = 0, 1, 2, 3, 4, 5, 6
COMMANDS = {READ: "read", WRITE: "write", DISC: "disconnect", FLUSH: "flush", TRIM: "trim", ZEROES: "zeroes"}

HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, ROTATIONAL, SEND_TRIM, SEND_ZEROES, SEND_DF, MULTI_CONN = (1 << i for i in range(9))
ALL_FLAGS = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_ZEROES | SEND_DF
CMD_FUA, CMD_NO_HOLE, CMD_DF = 1, 2, 4

EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 12, 22, 28, 75, 95, 108

# DST's own option, and the first reply to it.
OPT_DST = REP_DST = 0x5C1F93A6

SIMPLE_MAGIC, STRUCTURED_MAGIC = 0x67446698, 0x668E33EF
DONE = 1
NONE, DATA, HOLE, ERROR, ERROR_OFFSET = 0, 1, 2, 0x8001, 0x8002


class Gone(Exception):
    """The connection is over."""


class Request:
    """A request as it came; `data` are those of a write."""

    def __init__(self, connection, flags, command, cookie, offset, length):
        self.connection, self.flags, self.command = connection.number, flags, command
        self.cookie, self.offset, self.length = cookie, offset, length
        self.data = b""
        self.time = time.monotonic()

    def __repr__(self):
        name = COMMANDS.get(self.command, self.command)
        return f"{self.connection} {name} {self.flags} {self.offset} {self.length}"


class Connection:
    """One client."""

    def __init__(self, server, sock, number):
        self.server, self.socket, self.number = server, sock, number
        self.structured = False
        self.lock = threading.Lock()

    def read(self, size):
        data = bytearray(size)
        view, got = memoryview(data), 0
        while got < size:
            part = self.socket.recv_into(view[got:])
            if not part:
                raise Gone
            got += part
        return bytes(data)

    def send(self, *parts):
        """Sends the parts as one."""
        with self.lock:
            self.socket.sendall(b"".join(parts))

    # Replies, each as bytes.

    def simple(self, request, error=0, data=b"", cookie=None, magic=SIMPLE_MAGIC):
        cookie = request.cookie if cookie is None else cookie
        return struct.pack(">IIQ", magic, error, cookie) + data

    def chunk(self, request, kind, payload=b"", flags=0, cookie=None, magic=STRUCTURED_MAGIC, length=None):
        cookie = request.cookie if cookie is None else cookie
        length = len(payload) if length is None else length
        return struct.pack(">IHHQI", magic, flags, kind, cookie, length) + payload

    def data_chunk(self, request, offset, data, flags=0):
        return self.chunk(request, DATA, struct.pack(">Q", offset) + data, flags)

    def hole_chunk(self, request, offset, length, flags=0):
        return self.chunk(request, HOLE, struct.pack(">QI", offset, length), flags)

    def error_chunk(self, request, error, message=b"", flags=DONE):
        return self.chunk(request, ERROR, struct.pack(">IH", error, len(message)) + message, flags)

    def answer(self, request, error=0, data=b""):
        """The ordinary reply."""
        if not self.structured or request.command != READ:
            return self.simple(request, error, data if not error else b"")
        if error:
            return self.error_chunk(request, error)
        return self.data_chunk(request, request.offset, data, DONE)

    # The handshake.

    def option(self, option, kind, data=b""):
        return struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data

    def handshake(self, send=None):
        """The server's side, up to where requests begin; `send` takes what is to be sent."""
        send = send or self.send
        server = self.server
        send(b"NBDMAGIC" + b"IHAVEOPT" + struct.pack(">H", 3))
        self.read(4)
        while True:
            magic, option, length = struct.unpack(">8sII", self.read(16))
            if magic != b"IHAVEOPT":
                raise Gone
            data = self.read(length)
            if server.on_option and server.on_option(self, option, data):
                continue
            if option == 8 and server.structured:
                self.structured = True
                send(self.option(option, 1))
            elif option == 7:
                name = data[4 : 4 + struct.unpack(">I", data[:4])[0]].decode()
                server.names.append(name)
                if server.exports is not None and name not in server.exports:
                    send(self.option(option, 0x80000006, b"no such export"))
                    continue
                send(self.option(option, 3, struct.pack(">HQH", 0, server.size, server.flags)))
                if server.block:
                    send(self.option(option, 3, struct.pack(">HIII", 3, *server.block)))
                send(self.option(option, 1))
                return
            elif option == 2:
                send(self.option(option, 1))
                raise Gone
            else:
                send(self.option(option, 0x80000001))

    def request(self):
        """The next request, with its data."""
        magic, flags, command, cookie, offset, length = struct.unpack(">IHHQQI", self.read(28))
        if magic != 0x25609513:
            raise AssertionError(f"the client sent {magic:#x} as a request")
        request = Request(self, flags, command, cookie, offset, length)
        if command == WRITE and self.server.takes_data(self, request):
            request.data = self.read(length)
        return request

    def close(self, reset=False):
        how = socket.SHUT_RD if reset else socket.SHUT_RDWR
        try:
            if reset:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # Wakes the thread that reads; only then the socket goes.
            self.socket.shutdown(how)
        except OSError:
            pass
        self.socket.close()

    def run(self):
        server = self.server
        try:
            if not (server.on_connect and server.on_connect(self)):
                self.handshake()
            server.ready(self)
            while True:
                request = self.request()
                server.note(request)
                if request.command == DISC:
                    raise Gone
                if not (server.on_request and server.on_request(self, request)):
                    server.serve(self, request)
        except (Gone, OSError, struct.error):
            pass
        except AssertionError as error:
            server.complaints.append(str(error))
        finally:
            server.over(self)


class Server:
    """Listens on `port`, from start() on. The hooks return true if they have done the job:

    on_connect(connection): instead of the handshake (which it may call).
    on_option(connection, option, data): instead of the ordinary answer in the handshake.
    on_request(connection, request): instead of the ordinary answer.
    """

    def __init__(self, size, port, flags=ALL_FLAGS, structured=True, block=None, host="127.0.0.1", path=None):
        self.size, self.port, self.host = size, port, host
        self.flags, self.structured, self.block = flags, structured, block
        self.exports = None
        self.file = open(path, "r+b", buffering=0) if path else None
        self.memory = None if path else bytearray(size)
        self.log, self.names, self.complaints, self.connections = [], [], [], []
        self.on_connect = self.on_option = self.on_request = None
        # takes_data(connection, request): whether the data of a write are read before on_request is called.
        self.takes_data = lambda connection, request: True
        self.count = 0
        self.log_file = None
        self.lock = threading.Lock()
        self.socket = None
        self.receive_buffer = 0

    def start(self):
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        self.socket.bind((self.host, self.port))
        self.socket.listen(64)
        threading.Thread(target=self.accept, args=(self.socket,), daemon=True).start()
        return self

    def accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                if self.socket is not listener:
                    # It came in the moment of the end, which has missed it.
                    sock.close()
                    return
                self.count += 1
                connection = Connection(self, sock, self.count)
                self.connections.append(connection)
            threading.Thread(target=connection.run, daemon=True).start()

    def stop(self):
        """As if the process had died."""
        listener, self.socket = self.socket, None
        if listener:
            # Wakes the thread that accepts.
            try:
                listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            listener.close()
        self.drop()

    def drop(self, reset=False):
        """Ends all connections."""
        with self.lock:
            connections = list(self.connections)
        for connection in connections:
            connection.close(reset)

    def ready(self, connection):
        """A handshake is over."""

    def over(self, connection):
        connection.close()
        with self.lock:
            if connection in self.connections:
                self.connections.remove(connection)

    def note(self, request):
        with self.lock:
            self.log.append(request)
            if self.log_file:
                self.log_file.write(f"{request}\n")
                self.log_file.flush()

    def load(self, offset, length):
        if self.file:
            import os

            return os.pread(self.file.fileno(), length, offset)
        return bytes(self.memory[offset : offset + length])

    def store(self, offset, data):
        if self.file:
            import os

            os.pwrite(self.file.fileno(), data, offset)
        else:
            self.memory[offset : offset + len(data)] = data

    def apply(self, request):
        """Does what was asked for; gives the error and the data."""
        if request.command not in (FLUSH, DISC) and request.offset + request.length > self.size:
            self.complaints.append(f"beyond the end: {request}")
            return EINVAL, b""
        if self.block and (request.offset | request.length) % self.block[0]:
            self.complaints.append(f"not aligned to {self.block[0]}: {request}")
            return EINVAL, b""
        if self.block and request.command in (READ, WRITE) and request.length > self.block[2]:
            self.complaints.append(f"longer than {self.block[2]}: {request}")
            return EINVAL, b""
        needs = {FLUSH: SEND_FLUSH, TRIM: SEND_TRIM, ZEROES: SEND_ZEROES}.get(request.command, 0)
        if request.flags & CMD_FUA:
            needs |= SEND_FUA
        if request.flags & CMD_DF:
            needs |= SEND_DF
        if needs & ~self.flags:
            self.complaints.append(f"not advertised: {request}")
            return EINVAL, b""
        if request.command == READ:
            return 0, self.load(request.offset, request.length)
        if request.command == WRITE:
            self.store(request.offset, request.data)
        elif request.command in (TRIM, ZEROES):
            self.store(request.offset, bytes(request.length))
        elif request.command != FLUSH:
            self.complaints.append(f"unknown: {request}")
            return EINVAL, b""
        return 0, b""

    def serve(self, connection, request):
        error, data = self.apply(request)
        connection.send(connection.answer(request, error, data))

    def crc(self):
        return zlib.crc32(self.memory)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--flags", default="flush,fua,trim,zeroes,df", help="what is advertised")
    parser.add_argument("--simple", action="store_true", help="no structured replies")
    parser.add_argument("--block", help="MIN,PREFERRED,MAX")
    parser.add_argument("--file")
    parser.add_argument("--log")
    parser.add_argument("--ready", help="a file that is made when clients may come")
    args = parser.parse_args()
    names = {"flush": SEND_FLUSH, "fua": SEND_FUA, "trim": SEND_TRIM, "zeroes": SEND_ZEROES, "df": SEND_DF,
             "rotational": ROTATIONAL, "multi": MULTI_CONN, "read-only": READ_ONLY}
    flags = HAS_FLAGS
    for name in filter(None, args.flags.split(",")):
        flags |= names[name]
    block = tuple(int(b) for b in args.block.split(",")) if args.block else None
    server = Server(args.size, args.port, flags, not args.simple, block, args.host, args.file)
    if args.log:
        server.log_file = open(args.log, "w")
    server.start()
    if args.ready:
        open(args.ready, "w").write("ready\n")
    said = 0
    while True:
        time.sleep(0.2)
        for complaint in server.complaints[said:]:
            print(f"COMPLAINT {complaint}", flush=True)
            said += 1


if __name__ == "__main__":
    sys.exit(main())
