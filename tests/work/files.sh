# What programs do with files beside reading and writing them.
cat > files.py <<'PYTHON'
import ctypes, fcntl, mmap, os, tempfile, threading

libc = ctypes.CDLL(None, use_errno=True)

def check(result):
    assert result >= 0, os.strerror(ctypes.get_errno())
    return result

# A file without a name that is given one.
nameless = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
os.write(nameless, b"whole")
check(libc.linkat(-100, b"/proc/self/fd/%d" % nameless, -100, b"named", 0x400))
assert open("named").read() == "whole"

# Locks of every kind.
with open("lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    fcntl.flock(lock, fcntl.LOCK_UN)
    fcntl.lockf(lock, fcntl.LOCK_EX)

# Shared memory of a file, of nobody, and between processes.
with open("map", "w+b") as file:
    file.truncate(8192)
    with mmap.mmap(file.fileno(), 0) as shared:
        shared[4096:4101] = b"hello"
        shared.flush()
assert open("map", "rb").read()[4096:4101] == b"hello"
shared = mmap.mmap(-1, 4096)
if os.fork() == 0:
    shared[0] = 7
    os._exit(0)
os.wait()
assert shared[0] == 7
memory = os.memfd_create("memory")
os.ftruncate(memory, 4096)
with open("/proc/self/fd/%d" % memory, "r+b") as again:
    again.write(b"x")
with open("/dev/shm/agent-guard-work", "w"):
    pass
os.unlink("/dev/shm/agent-guard-work")

# Changes that are waited for.
watch = check(libc.inotify_init1(0))
check(libc.inotify_add_watch(watch, b".", 0x100))
open("noticed", "w").close()
assert b"noticed" in os.read(watch, 4096)

# Attributes, owners, times, sparse files, ranges, a FIFO.
os.setxattr("named", "user.note", b"text")
os.chown("named", os.getuid(), os.getgid())
os.utime("named", (1, 1))
with open("sparse", "wb") as file:
    os.posix_fallocate(file.fileno(), 0, 65536)
    os.truncate("sparse", 10)
with open("map", "rb") as source, open("copy", "wb") as sink:
    assert os.copy_file_range(source.fileno(), sink.fileno(), 4096) == 4096
    assert os.sendfile(sink.fileno(), source.fileno(), 0, 100) == 100
os.mkfifo("fifo")
threading.Thread(target=lambda: open("fifo", "w").write("x")).start()
assert open("fifo").read() == "x"
os.symlink("named", "link")
assert os.readlink("link") == "named"
for directory in ("/tmp", "/var/tmp"):
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        os.link(file.name, file.name + ".second")
        os.rename(file.name + ".second", file.name)
        open(file.name, "w").close()
PYTHON
python3 files.py
