# SPDX-License-Identifier: GPL-2.0
"""A network cable between two VMs of tests/vm that outlives both: one says --listen ONE, the other one --connect TWO."""

import os
import socket
import struct
import threading
import time


class Cable:
    """Hands on frames as long as both ends are plugged in; `cut` is true while none get through."""

    def __init__(self, listens, connects):
        self.listens, self.ends, self.cut, self.over = listens, [None, None], False, False
        self.lock = threading.Lock()
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(connects)
        self.server.listen(4)
        for work in self.accept, self.connect:
            threading.Thread(target=work, daemon=True).start()

    def accept(self):
        """The VM that connects; a new one takes the place of the old one."""
        while not self.over:
            try:
                end, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self.carry, args=(1, end), daemon=True).start()

    def connect(self):
        """The VM that listens; it may come and go."""
        while not self.over:
            end = socket.socket(socket.AF_UNIX)
            try:
                end.connect(self.listens)
            except OSError:
                end.close()
                time.sleep(0.1)
                continue
            self.carry(0, end)

    def carry(self, side, end):
        """Hands on what comes from one end."""
        self.ends[side] = end
        try:
            while True:
                length = self.read(end, 4)
                frame = length + self.read(end, struct.unpack(">I", length)[0])
                other = self.ends[1 - side]
                if other and not self.cut:
                    try:
                        other.sendall(frame)
                    except OSError:
                        pass
        except OSError:
            pass
        finally:
            if self.ends[side] is end:
                self.ends[side] = None
            end.close()

    @staticmethod
    def read(end, size):
        data = b""
        while len(data) < size:
            part = end.recv(size - len(data))
            if not part:
                raise OSError("unplugged")
            data += part
        return data

    def close(self):
        self.over = True
        self.server.close()
        for end in self.ends:
            if end:
                end.close()


def remove(path):
    """A socket that an earlier run has left."""
    if os.path.exists(path):
        os.unlink(path)
