# A repository made, changed, branched, rebased, packed, cloned and checked out a second time.
git config --global user.name Ada
git config --global user.email ada@example.invalid
git init -q -b main project
cd project
echo one > file
git add file
git commit -q -m one
printf '#!/bin/sh\ntouch hooked\n' > .git/hooks/pre-commit
chmod +x .git/hooks/pre-commit
git checkout -q -b topic
echo two >> file
git commit -q -a -m two
test -f hooked
git checkout -q main
echo three > other
git add other
git commit -q -m three
git rebase -q main topic
git stash list
git tag v1
git worktree add -q ../second v1
git gc -q
git status --short
cd ..
git clone -q project local
git clone -q "file://$PWD/project" packed
git -C packed log --oneline | grep -c . | grep -qx 3
git -C packed push -q origin HEAD:refs/heads/pushed
git -C project diff main topic | grep -q '^+two'
