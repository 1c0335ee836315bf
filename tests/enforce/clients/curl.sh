# curl by name, once over each protocol.
port=$1
shift
for name; do
    reached=$(for family in 4 6; do
        curl --silent --noproxy '*' --max-time 60 -$family --write-out '\n' "http://$name:$port/"
    done)
    echo $name $reached '|' $reached
done
