# A server on a port that the kernel picks listens, over TCP and a socket of its own, and curl talks to
# the development server that the policy names.
python3 - <<'PYTHON'
import asyncio, os, socket, subprocess, sys, threading

listener = socket.create_server(("127.0.0.1", 0))
assert listener.getsockname()[1] >= 1024
listener.close()

local = socket.socket(socket.AF_UNIX)
local.bind("local")
local.listen()
threading.Thread(target=lambda: local.accept()[0].sendall(b"hello")).start()
asked = socket.socket(socket.AF_UNIX)
asked.connect("local")
assert asked.recv(5) == b"hello"

ours, theirs = socket.socketpair()
ours.send(b"x")
assert theirs.recv(1) == b"x"
socket.if_nameindex()

async def loop():
    child = await asyncio.create_subprocess_exec("true")
    assert await child.wait() == 0
asyncio.run(loop())
PYTHON
curl --silent --show-error --max-time 60 http://127.0.0.1:8080/ | grep -q hello
