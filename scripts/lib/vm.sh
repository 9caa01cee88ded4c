# shellcheck shell=bash
# A virtual machine under software emulation, whose kernel can bind AF_XDP sockets to virtio-net without copies. Sourced.
#
# The kernel is Debian's, for clouds, from trixie-backports: 6.13 or newer has zero copy on virtio-net. The archive is the
# one that this machine's apt takes its own packages from.

# The modules that the machine gets: loaded when it starts, and loaded by those who want them.
vm_modules=(failover net_failover virtio_net)
vm_modules_spare=(sch_htb sch_cake)

# vm_kernel CACHE: puts vmlinuz and the modules into that folder, unless they are there.
# Fails with the reason on its last line.
vm_kernel() {
    local cache=$1 uri version module
    local wanted=("${vm_modules[@]}" "${vm_modules_spare[@]}")
    [[ ! -e $cache/complete || $(<"$cache/complete") != *" ${wanted[*]}" ]] || return 0
    rm -rf "$cache/apt" "$cache/unpacked"
    mkdir -p "$cache/apt/state/lists/partial" "$cache/apt/cache/archives/partial"
    # shellcheck disable=SC2016 # apt's own variables
    uri=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
        awk -F '|' '$1 == "Debian" && $2 == "Debian" { print $3; exit }')
    if [[ -z $uri ]]; then
        echo "apt has no source of Debian's packages here"
        return 1
    fi
    # Its own state, so that nothing of the machine's is touched.
    cat >"$cache/apt/conf" <<CONF
Dir::Etc::SourceList "$cache/apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State "$cache/apt/state";
Dir::State::Status "/dev/null";
Dir::Cache "$cache/apt/cache";
Acquire::Languages "none";
Acquire::Retries "2";
APT::Update::Error-Mode "any";
APT::Sandbox::User "root";
CONF
    echo "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri trixie-backports main" \
        >"$cache/apt/sources.list"
    if ! vm_apt "$cache" apt-get -q -q update; then
        echo "the list of trixie-backports cannot be had: $(grep -m 1 '^[EW]: ' "$cache/apt/log")"
        return 1
    fi
    version=$(vm_apt "$cache" apt-cache search --names-only '^linux-binary-[0-9].*-cloud-amd64$' &&
        sed -n 's/^linux-binary-\([^ ]*\) .*/\1/p' "$cache/apt/log" | sort -V | tail -n 1)
    if [[ -z $version ]]; then
        echo "trixie-backports has no kernel for clouds"
        return 1
    fi
    if ! (cd "$cache/apt" && vm_apt "$cache" apt-get -q -q download "linux-binary-$version" "linux-modules-$version"); then
        echo "the kernel $version cannot be had: $(grep -m 1 '^[EW]: ' "$cache/apt/log")"
        return 1
    fi
    for module in "$cache"/apt/*.deb; do
        dpkg -x "$module" "$cache/unpacked"
    done
    find "$cache/unpacked" -name 'vmlinuz*' -exec cp {} "$cache/vmlinuz" \;
    for module in "${wanted[@]}"; do
        find "$cache/unpacked" -name "$module.ko*" -exec cp {} "$cache/" \;
        [[ ! -e $cache/$module.ko.xz ]] || xz --decompress --force "$cache/$module.ko.xz"
    done
    rm -rf "$cache/apt" "$cache/unpacked"
    if [[ ! -s $cache/vmlinuz || ! -s $cache/virtio_net.ko ]]; then
        echo "the packages of kernel $version hold no vmlinuz or no virtio_net"
        return 1
    fi
    echo "$version ${wanted[*]}" >"$cache/complete"
}

# vm_apt CACHE COMMAND...: by the configuration there; what it says goes to apt/log.
vm_apt() {
    local cache=$1
    shift
    APT_CONFIG=$cache/apt/conf "$@" >"$cache/apt/log" 2>&1 </dev/null
}

# vm_install ROOT PROGRAM: with the shared libraries that it needs, in their places.
vm_install() {
    local library
    install -D "$2" "$1/bin/$(basename "$2")"
    while IFS= read -r library; do
        install -D "$library" "$1$library"
    done < <(ldd "$2" 2>/dev/null | grep -o '/[^ ]*')
}

# vm_initramfs CACHE OUT SLUICE CONFIG [PROGRAM...]: a shell that takes commands from the serial line, our binary, the
# modules, other programs.
vm_initramfs() {
    local cache=$1 out=$2 root program
    root=$(mktemp -d)
    mkdir -p "$root"/{dev,proc,sys,run,tmp,etc,lib/modules}
    vm_install "$root" "$(command -v busybox)"
    for program in "$3" "${@:5}"; do
        vm_install "$root" "$program"
    done
    cp "$4" "$root/etc/sluice.toml"
    cp "$cache"/*.ko "$root/lib/modules/"
    cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
[ -c /dev/ttyS0 ] || mount -t devtmpfs dev /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty raw -echo
# The kernel has no part in the traffic.
for family in all default; do
    echo 1 >/proc/sys/net/ipv6/conf/$family/disable_ipv6
done
for module in failover net_failover virtio_net; do
    [ ! -e /lib/modules/$module.ko ] || insmod /lib/modules/$module.ko
done
ip link set lo up
status=0
printf '\n=%d\n' 0
while read -r line; do
    sh -c "$line" </dev/null
    printf '\n=%d\n' $?
done
poweroff -f
INIT
    chmod +x "$root/init"
    (cd "$root" && find . | cpio --quiet --create --format=newc --owner=0:0 | gzip -1) >"$out"
    rm -rf "$root"
}

# vm_start CACHE INITRAMFS FOLDER NAMESPACE TAP...: boots it with a NIC of two queues on each of the namespace's taps, and
# waits for its shell. The NICs are eth0, eth1, ... in it. It ends with the lab.
#
# iommu_platform: without it the driver maps no memory of its own and refuses zero copy. The offloads are off as the
# driver takes no XDP program while the host may send it segments that nobody cut.
vm_start() {
    local cache=$1 initramfs=$2 folder=$3 namespace=$4 tap nics=() number=0
    shift 4
    for tap in "$@"; do
        nics+=(-netdev "tap,id=n$number,ifname=$tap,script=no,downscript=no,queues=2"
            -device "virtio-net-pci,netdev=n$number,mac=52:54:00:00:00:0$((number + 1)),mq=on,vectors=10,disable-legacy=on,iommu_platform=on,guest_tso4=off,guest_tso6=off,guest_ufo=off,guest_ecn=off")
        number=$((number + 1))
    done
    mkfifo "$folder/console.in" "$folder/console.out"
    exec {vm_in}<>"$folder/console.in" {vm_out}<>"$folder/console.out"
    exec ip netns exec "$namespace" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 768 -nodefaults -no-user-config -no-reboot \
        -display none -kernel "$cache/vmlinuz" -initrd "$initramfs" \
        -append "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off" \
        -serial "pipe:$folder/console" "${nics[@]}" >"$folder/qemu.log" 2>&1 &
    vm_answer 60
}

# vm COMMAND: a line for the machine's shell; its output and status are ours.
vm() {
    echo "$1" >&"$vm_in"
    vm_answer 30
}

# vm_answer SECONDS: what the machine says up to the end of a command, and that command's status.
vm_answer() {
    local line
    while IFS= read -r -t "$1" line <&"$vm_out"; do
        line=${line%$'\r'}
        [[ $line != =[0-9]* ]] || return "${line#=}"
        [[ -z $line ]] || printf '%s\n' "$line"
    done
    echo "the virtual machine says nothing for $1 s" >&2
    return 124
}
