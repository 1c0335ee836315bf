# An interactive shell on a terminal: pipes, jobs, signals, redirections.
# needs: /usr/bin/script /bin/bash
cat > typed <<'TYPED'
set -o pipefail
seq 5 | sort -r | head -n 1 > top
sleep 100 &
jobs
kill %1
wait
(sleep 0.1; echo late) &
fg
stty -a > terminal
tty
exit 3
TYPED
code=0
script -q -e -c 'bash --norc -i' log < typed || code=$?
cat log
test "$code" -eq 3
grep -qx 5 top
grep -q speed terminal
