# A package in a root of its own: $1 is the root, $2 the package.
root=$1 package=$2
mkdir -p "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates" "$root/tmp" "$root/proc" "$root/dev" "$root/etc"
: > "$root/var/lib/dpkg/status"
mkdir "$root/usr"
# What maintainer scripts and the program need of the machine, below what the package brings.
mkdir "$root/.upper" "$root/.work"
mount -t overlay overlay -o "lowerdir=/usr,upperdir=$root/.upper,workdir=$root/.work" "$root/usr"
for directory in bin sbin lib lib64; do ln -s "usr/$directory" "$root/$directory"; done
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
dpkg="dpkg --root=$root --force-depends --force-unsafe-io"
$dpkg --install "$package"
chroot "$root" agent-guard --version
chroot "$root" agent-guard policy check /usr/share/doc/agent-guard/examples/coding-agent.yaml
test -f "$root/lib/systemd/system/agent-guard.service"
grep -q "^ExecStart=/usr/bin/agent-guard daemon$" "$root/lib/systemd/system/agent-guard.service"
# What the administrator changed stays, at an upgrade and when it is removed.
echo "# mine" >> "$root/etc/agent-guard/config.toml"
touch "$root/etc/agent-guard/policies/mine.yaml"
$dpkg --force-confold --install "$package"
grep -q "^# mine$" "$root/etc/agent-guard/config.toml"
$dpkg --remove agent-guard
test ! -e "$root/.upper/bin/agent-guard" || test -c "$root/.upper/bin/agent-guard"
test -f "$root/etc/agent-guard/config.toml"
$dpkg --purge agent-guard
test ! -e "$root/etc/agent-guard/config.toml"
test -f "$root/etc/agent-guard/policies/mine.yaml"
umount "$root/proc" "$root/dev" "$root/usr"
