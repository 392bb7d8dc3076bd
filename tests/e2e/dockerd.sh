#!/bin/sh
# An own dockerd and containerd in BASE that know the registry NAME:PORT at ADDRESS. Its authority
# and its client certificate are in the folder CERTS, as they are now and later.
#
#   dockerd.sh BASE NAME PORT ADDRESS CERTS
#
# It runs until it gets SIGTERM. The mount namespace keeps the machine's /etc/hosts and
# /etc/docker as they are. NAME must not resolve into 127.0.0.0/8: dockerd takes such registries
# for insecure, ignores certs.d and retries over plain HTTP. ::1 is taken for secure.
set -eu
if [ "${PORTCULLIS_E2E_INSIDE:-}" != 1 ]; then
    export PORTCULLIS_E2E_INSIDE=1
    mkdir -p /etc/docker
    exec unshare --mount --propagation private "$0" "$@"
fi
base=$1 name=$2 port=$3 address=$4 certs=$5

mount -t tmpfs none /etc/docker
mkdir -p "/etc/docker/certs.d/$name:$port"
mount --bind "$certs" "/etc/docker/certs.d/$name:$port"
printf '127.0.0.1 localhost\n::1 localhost\n%s %s\n' "$address" "$name" > "$base/hosts"
mount --bind "$base/hosts" /etc/hosts

cat > "$base/containerd.toml" <<EOF
version = 2
root = "$base/containerd/root"
state = "$base/containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$base/containerd.sock"
EOF
containerd --config "$base/containerd.toml" > "$base/containerd.log" 2>&1 &
containerd=$!
dockerd=
# KILL: nothing here is worth a clean end, and dockerd takes seconds for one.
trap 'kill -KILL $containerd $dockerd 2>/dev/null; exit 0' TERM INT

dockerd -H "unix://$base/docker.sock" --containerd "$base/containerd.sock" \
    --data-root "$base/docker/data" --exec-root "$base/docker/exec" -p "$base/docker/pid" \
    --iptables=false --ip6tables=false --bridge=none --storage-driver=vfs \
    > "$base/dockerd.log" 2>&1 &
dockerd=$!
wait $dockerd || true
kill -KILL $containerd 2>/dev/null || true
exit 1
