# A resolver of its own, which asks the name server that the system has.
port=$1
shift
for name; do
    told=$(for kind in A AAAA; do dig +short +timeout=60 +tries=1 "$name" $kind; done | grep -v '\.$')
    reached=
    for address in $(echo "$told" | tail -n 1); do
        case $address in *:*) address="[$address]" ;; esac
        reached=$(curl --silent --noproxy '*' --max-time 60 -g "http://$address:$port/")
    done
    echo $name $told '|' $reached
done
