# A virtual environment, and in it a package from a directory of wheels, which brings a program.
python3 - <<'PYTHON'
import os, zipfile
os.mkdir("wheels")
with zipfile.ZipFile("wheels/greeter-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("greeter.py", "def main():\n    print('hello')\n")
    info = "greeter-1.0.dist-info/"
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: greeter\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "entry_points.txt", "[console_scripts]\ngreet = greeter:main\n")
    wheel.writestr(info + "RECORD", "greeter.py,,\n")
PYTHON
python3 -m venv .venv
. .venv/bin/activate
pip --disable-pip-version-check install --no-index --find-links wheels greeter
greet | grep -qx hello
python -c 'import greeter'
pip --disable-pip-version-check uninstall -y greeter
