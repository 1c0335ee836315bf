"""Python's socket module. Every address is connected to."""

import socket
import sys

port = int(sys.argv[1])
for name in sys.argv[2:]:
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        found = []
    reached = []
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as connection:
            connection.settimeout(60)
            try:
                connection.connect(address)
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                reached.append(connection.makefile().read().split("\n")[-1])
            except OSError:
                pass
    print(name, *(address[0] for *_, address in found), "|", *reached, flush=True)
