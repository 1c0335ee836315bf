# ps looks at every process in /proc and shows those of the agent; at tier trace it dies of it.
# tier: lsm
# denied: guarded
ps aux > out
grep -q 'ps aux' out
test "$(wc -l < out)" -lt 10
