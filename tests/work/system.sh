# What tools ask of the system: who and where they are, what there is of it.
id > out
uname -a >> out
nproc >> out
free >> out
df . >> out
date >> out
hostname >> out
whoami >> out
env >> out
uptime >> out
ls -la / /etc /usr/bin /proc/self/fd >> out
cat /proc/meminfo /proc/cpuinfo /proc/self/status /etc/os-release >> out
nice -n 5 timeout 5 true
mktemp -d > place
rmdir "$(cat place)"
ip address > out
