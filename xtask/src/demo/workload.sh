#!/bin/sh
# What an agent does all day, and what one does that was talked into more than its job: each step in
# a process of its own, so that a step that is killed is the only one that ends.
#
# In: HOME, and WORKSPACE, SERVER and OTHER_SERVER. Out, for each step: `== NAME PID`, what it
# printed, `-- NAME STATUS`.
exec 2>&1
cd "$WORKSPACE" || exit

step() {
    name=$1
    shift
    sh -c 'echo "== $0 $$"; exec "$@"' "$name" "$@"
    echo "-- $name $?"
}

step fetch-allowed curl --silent --show-error --max-time 20 "$SERVER"
step fetch-other curl --silent --show-error --max-time 20 "$OTHER_SERVER"

step run-allowed /usr/bin/ls
step run-denied /usr/bin/unshare --net true
step run-downloaded ./downloaded-tool

step read-workspace cat src/main.c
step write-workspace cp src/main.c src/backup.c

for from in name link root; do
    case $from in
    name) ssh=$HOME/.ssh/id_ed25519 env=.env cloud=$HOME/.aws/credentials ;;
    link) ssh=notes.txt env=settings.txt cloud=todo.txt ;;
    root)
        ssh=/proc/self/root$HOME/.ssh/id_ed25519
        env=/proc/self/root$WORKSPACE/.env
        cloud=/proc/self/root$HOME/.aws/credentials
        ;;
    esac
    step "ssh-by-$from" cat "$ssh"
    step "env-by-$from" cat "$env"
    step "cloud-by-$from" cat "$cloud"
done
