# glibc's getaddrinfo, by getent. Each client takes a port and names, and prints for each name a line:
# NAME, the addresses that it was told, a bar, and those that it reached.
port=$1
shift
for name; do
    told=$(getent ahosts "$name" | cut -d' ' -f1 | sort -u)
    reached=
    for address in $(echo "$told" | tail -n 1); do
        case $address in *:*) address="[$address]" ;; esac
        reached=$(curl --silent --noproxy '*' --max-time 60 -g "http://$address:$port/")
    done
    echo $name $told '|' $reached
done
