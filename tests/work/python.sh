# Python with what its library has in C, threads, processes, a database and a temporary directory.
python3 - <<'PYTHON'
import concurrent.futures, ctypes, hashlib, json, multiprocessing, os, random, sqlite3, ssl
import subprocess, sys, tempfile, threading, urllib.request, uuid, zoneinfo

def square(number):
    return number * number

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(square, range(4)) == [0, 1, 4, 9]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert list(pool.map(square, range(3))) == [0, 1, 4]
    with tempfile.TemporaryDirectory() as directory:
        database = sqlite3.connect(os.path.join(directory, "base"))
        database.execute("pragma journal_mode=wal")
        database.execute("create table numbers (number)")
        database.execute("insert into numbers values (?)", (42,))
        database.commit()
        assert database.execute("select number from numbers").fetchone() == (42,)
        database.close()
    assert subprocess.run(["uname"], capture_output=True, check=True).stdout
    assert ctypes.CDLL(None).getpid() == os.getpid()
    ssl.create_default_context()
    # Another thread's name is written through /proc.
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    assert ctypes.CDLL(None).pthread_setname_np(ctypes.c_ulong(thread.ident), b"worker") == 0
    done.set()
    thread.join()
    uuid.uuid4()
PYTHON
