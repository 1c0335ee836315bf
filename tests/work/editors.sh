# Editors save: in place, by rename, with a backup, with a swap file; and what they keep beside it stays.
printf 'one\ntwo\n' > text
sed -i.bak 's/one/1/' text
sed -i 's/two/2/' text
perl -pi -e 's/1/first/' text
chmod 640 text
touch -d 2020-01-01 text
python3 - <<'PYTHON'
import os, shutil
with open("text.tmp", "w") as new:
    new.write(open("text").read() + "saved\n")
    new.flush()
    os.fsync(new.fileno())
shutil.copystat("text", "text.tmp")
os.rename("text.tmp", "text")
directory = os.open(".", os.O_DIRECTORY)
os.fsync(directory)
PYTHON
cp -a text text.copy
mv text text~
mv text.copy text
ln text text.second
ln -s text text.link
test "$(cat text.link)" = "$(printf 'first\n2\nsaved')"
rm text.second text~
