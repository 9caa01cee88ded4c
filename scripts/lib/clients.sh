# shellcheck shell=bash disable=SC2034,SC2154 # its users read and set the variables
# The servers and the clients of the lab. Sourced, within the lab, by the demo and by the recording of its captures.

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
work=/run/demo
www=$work/www
gateway4=192.168.1.1 gateway6=fd00:1::1
public4=203.0.113.2
router4=203.0.113.1
server4=198.51.100.7 server6=2001:db8:7::7

lan() { ip netns exec lan "$@"; }
gw() { ip netns exec gw "$@"; }
wan() { ip netns exec wan "$@"; }
net() { ip netns exec net "$@"; }

show() {
    "$sluice" show "$1" --json
}

# json EXPRESSION: a value of the JSON object `o` on stdin, by a Python expression.
json() {
    python3 -c 'import json, sys; o = json.load(sys.stdin); print(eval(sys.argv[1]))' "$1"
}

# until_true SECONDS COMMAND...: tries until it succeeds.
until_true() {
    local end=$((${EPOCHREALTIME/[^0-9]/} + $1 * 1000000))
    shift
    until "$@" >/dev/null 2>&1; do
        [[ ${EPOCHREALTIME/[^0-9]/} -lt $end ]] || return 1
        sleep 0.05
    done
}

# start_servers KIBIBYTES: with a file of that size to download.
start_servers() {
    mkdir -p "$www"
    echo "The packet's path is the layout." >"$www/hello"
    python3 -c "import random; random.seed(1); open('$www/file', 'wb').write(random.randbytes($1 << 10))"
    net python3 "$here/http-server.py" "$www" 80 >"$work/http-net.log" 2>&1 &
    lan python3 "$here/http-server.py" "$www" 80 >"$work/http-lan.log" 2>&1 &
    net dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --no-resolv --no-hosts --no-daemon \
        --address=/www.example.net/$server4 --address=/www.example.net/$server6 >"$work/dns.log" 2>&1 &
    net iperf3 --server --forceflush >"$work/iperf3.log" 2>&1 &
    until_true 10 net curl -s --max-time 1 http://127.0.0.1/hello
    until_true 10 lan curl -s --max-time 1 http://127.0.0.1/hello
    until_true 10 net dig +time=1 +tries=1 @$server4 www.example.net
    until_true 10 grep -q listening "$work/iperf3.log"
}

# start_gateway CONFIG: waits until it is ready. Sets gateway_pid.
start_gateway() {
    # An earlier gateway's "ready" is not this one's.
    : >"$work/gateway.log"
    exec ip netns exec gw "$sluice" run "$1" >"$work/gateway.log" 2>&1 &
    gateway_pid=$!
    until_true 10 grep -q '^ready' "$work/gateway.log"
}

# stop_gateway: by SIGTERM. Sets stop_milliseconds and stop_status.
stop_gateway() {
    local from=${EPOCHREALTIME/[^0-9]/}
    stop_status=0
    kill -TERM "$gateway_pid"
    wait "$gateway_pid" || stop_status=$?
    stop_milliseconds=$(((${EPOCHREALTIME/[^0-9]/} - from) / 1000))
}
