# A test suite, with fixtures, a temporary directory and a server on a port that the kernel picks.
# needs: /usr/bin/pytest-3
cat > test_it.py <<'PYTHON'
import http.server, threading, urllib.request
import pytest

@pytest.fixture
def server():
    served = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield served
    served.shutdown()

def test_a_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("text")
    assert path.read_text() == "text"

def test_a_server_listens(server):
    assert server.server_port >= 1024

def test_output(capfd):
    print("seen")
    assert capfd.readouterr().out == "seen\n"
PYTHON
pytest-3 -q
