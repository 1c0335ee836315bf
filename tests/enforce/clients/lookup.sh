# A resolver as a program: glibc's getaddrinfo by getent, or dig, which asks by itself the name server that the
# system has. Each client takes a port and names, and prints for each name a line: NAME, the addresses that it was
# told, a bar, and those that it reached.
by_getent() {
    getent ahosts "$1" | cut -d' ' -f1 | sort -u
}
by_dig() {
    for kind in A AAAA; do dig +short +timeout=60 +tries=1 "$1" $kind; done | grep -v '\.$'
}
resolver=$1 port=$2
shift 2
for name; do
    told=$("by_$resolver" "$name")
    reached=
    for address in $(echo "$told" | tail -n 1); do
        case $address in *:*) address="[$address]" ;; esac
        reached=$(curl --silent --noproxy '*' --max-time 60 -g "http://$address:$port/")
    done
    echo $name $told '|' $reached
done
