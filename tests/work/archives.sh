# Archives written and read, a tree copied and searched.
mkdir -p tree/a/b
for number in 1 2 3 4 5 6 7 8; do echo "line $number" > "tree/a/b/$number.txt"; done
ln -s b/1.txt tree/a/link
ln tree/a/b/1.txt tree/a/hard
tar -czf tree.tar.gz tree
mkdir out
tar -xpzf tree.tar.gz -C out
diff -r tree out/tree
python3 -m zipfile -c tree.zip tree
python3 -m zipfile -e tree.zip unzipped
test "$(find out -type f | wc -l)" -eq 9
grep -rl 'line 7' out | grep -qx out/tree/a/b/7.txt
find out -name '*.txt' -print0 | xargs -0 -n2 wc -l > counts
cp -a out copy
rm -rf out
